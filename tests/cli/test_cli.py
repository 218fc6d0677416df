"""The group: help, errors in one line, exit statuses."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Shell
from tests.valkey import free_port

COMMANDS = (["config"], ["emit"], ["emit", "thought"], ["emit", "task"], ["emit", "project"], ["run"], ["serve"],
            ["tail"], ["url"])


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_help_has_an_example(wsapp: Shell, command: list[str]) -> None:
    done = wsapp(*command, "--help")
    assert done.returncode == 0
    example = {"url": "redis-cli -u", "config": "wsapp config"}.get(command[-1] if command else "", "wsapp ")
    assert f"\n  {example}" in done.stdout


def test_wrong_usage(wsapp: Shell) -> None:
    done = wsapp("nonsense")
    assert (done.returncode, "No such command" in done.stderr) == (2, True)
    assert wsapp("run", "--agent", "a").returncode == 2


def test_an_error_is_one_line(wsapp: Shell) -> None:
    nowhere = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    for environ, args in (({"WSAPP_X": "1"}, ["config"]), ({}, ["tail", "coder"]),
                          (nowhere, ["emit", "thought", "--agent", "a", "b"]), (nowhere, ["tail", "agent:a"])):
        done = wsapp(*args, environ=environ)
        assert done.returncode == 1
        assert done.stderr.startswith("wsapp: ")
        assert done.stderr.count("\n") == 1


def test_version(wsapp: Shell) -> None:
    assert wsapp("--version").stdout.startswith("wsapp, version ")
