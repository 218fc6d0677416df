"""`wsapp emit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.cli.conftest import Shell

History = Callable[[str], list[dict[str, Any]]]


def test_thought(wsapp: Shell, history: History) -> None:
    done = wsapp("emit", "thought", "--agent", "coder", "--task", "t1", "--also-to", "task:t1", "--also-to",
                 "project:p1", "--data", '{"mood": 1}', "hm ü")
    assert done.stdout.split()[1:] == ["agent:coder#1", "task:t1#1", "project:p1#1"]
    told = history("project:p1")[0]
    assert told.pop("timestamp") > 0
    assert told == {"agentId": "coder", "thought": "hm ü", "taskId": "t1", "mood": 1}


def test_task(wsapp: Shell, history: History) -> None:
    done = wsapp("emit", "task", "--task", "t1", "--status", "failed", "--progress", "42", "--message", "m")
    assert done.returncode == 0
    told = history("task:t1")[0]
    assert (told["status"], told["progress"], told["message"]) == ("failed", 42, "m")
    assert isinstance(told["progress"], int)


def test_project(wsapp: Shell, history: History) -> None:
    first = wsapp("emit", "project", "--project", "p1", "--key", "k", "deployed", "[1]")
    again = wsapp("emit", "project", "--project", "p1", "--key", "k", "deployed", "[1]")
    assert again.stdout == first.stdout.rstrip() + " duplicate\n"
    assert history("project:p1") == [[1]]


def test_faults_are_told(wsapp: Shell) -> None:
    for args, told in ((["project", "--project", "p", "connect"], "reserved"),
                       (["project", "--project", "p", "e", "{"], "--data is not JSON"),
                       (["project", "--project", "p", "e", "NaN"], "--data is not JSON"),
                       (["thought", "--agent", "a", "--data", "[]", "x"], "JSON object"),
                       (["task", "--task", "t", "--status", "failed", "--progress", "101"], "progress")):
        done = wsapp("emit", *args)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr
