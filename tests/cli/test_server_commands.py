"""`wsapp config`, `url` and `serve`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Shell
from tests.valkey import Valkey


def test_config(wsapp: Shell) -> None:
    done = wsapp("config", environ={"PING_INTERVAL": "1000", "REDIS_URL": "redis://:secret@h/0"})
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert lines["PING_INTERVAL"][1:4] == ["1000", "ms", "environment"]
    assert lines["MAX_CONNECTIONS"][1:4] == ["1000", "connections", "default"]
    assert "secret" not in done.stdout


def test_config_as_json(wsapp: Shell) -> None:
    rows = {row["name"]: row for row in json.loads(wsapp("config", "--json").stdout)}
    assert rows["MAX_EVENTS_PER_SEC"]["value"] == "10"


def test_url(wsapp: Shell, valkey: Valkey) -> None:
    assert wsapp("url").stdout == f"{valkey.url}\n"
    done = wsapp("url", environ={"REDIS_URL": ""})
    assert (done.returncode, "REDIS_URL is not set" in done.stderr) == (1, True)


def test_serve_becomes_gunicorn(wsapp: Shell, tmp_path: Path) -> None:
    fake = tmp_path / "gunicorn.py"  # stands first on the path: tells how it was called
    fake.write_text("import os, sys; print(sys.argv[1:], os.environ['WEB_CONCURRENCY'], os.environ['WEBSOCKET_PORT'])")
    paths = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = wsapp("serve", "web:app", "--workers", "3", "--port", "8000", "--", "--reload", environ=paths, cwd=ROOT)
    conf = str(ROOT / "gunicorn.conf.py")
    assert done.stdout.strip() == f"{['-c', conf, '--reload', 'web:app']} 3 8000"
    assert sys.executable


@pytest.mark.parametrize("wrong", [{"MAX_CONNECTIONS": "x"}, {"WEB_CONCURRENCY": "abc"}, {"WEB_CONCURRENCY": "1.5"}])
def test_serve_tells_a_wrong_setting_first(wsapp: Shell, wrong: dict[str, str]) -> None:
    done = wsapp("serve", environ=wrong)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert next(iter(wrong)) in done.stderr
