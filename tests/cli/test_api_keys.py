"""`wsapp api-key`."""

from __future__ import annotations

from tests.cli.conftest import Shell
from wsapp.core.api_keys import digest_of, parse_key


def test_created_listed_and_revoked(wsapp: Shell) -> None:
    secret = wsapp("api-key", "create", "ci", "--scope", "publish", "-s", "read").stdout.strip()
    assert secret.startswith("wsapp_")
    listed = wsapp("api-key", "list").stdout
    assert listed.split()[:2] == ["ci", "publish+read"]
    assert secret not in listed
    assert digest_of(secret) not in listed
    again = wsapp("api-key", "create", "ci", "--scope", "admin")
    assert (again.returncode, "revoke it first" in again.stderr) == (1, True)
    assert wsapp("api-key", "revoke", "ci").stdout == "revoked ci\n"
    assert wsapp("api-key", "revoke", "ci").returncode == 1
    assert wsapp("api-key", "list").stdout == ""


def test_wrong_usage(wsapp: Shell) -> None:
    assert wsapp("api-key", "create", "ci").returncode == 2
    assert wsapp("api-key", "create", "c i", "--scope", "read").returncode == 2
    assert wsapp("api-key", "create", "ci", "--scope", "all").returncode == 2


def test_a_key_for_the_setting_is_kept_nowhere(wsapp: Shell) -> None:
    done = wsapp("api-key", "create", "ops", "--scope", "admin", "--print-setting", environ={"REDIS_URL": ""})
    key = parse_key(done.stderr.strip().removeprefix("WSAPP_API_KEYS="))
    assert (key.name, key.digest) == ("ops", digest_of(done.stdout.strip()))
