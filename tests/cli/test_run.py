"""`wsapp run` with real commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Shell
from tests.harness import wait_until
from tests.valkey import Valkey, free_port
from wsapp.cli.run import Story

History = Callable[[str], list[dict[str, Any]]]


def without_time(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in body.items() if name != "timestamp"} for body in bodies]


def texts(bodies: list[dict[str, Any]]) -> list[str]:
    return [body["thought"] for body in bodies if "thought" in body]


def test_a_whole_run(wsapp: Shell, history: History) -> None:
    done = wsapp("run", "--agent", "coder", "--task", "t1", "--project", "p1", "--",
                 "sh", "-c", "echo hello; echo 1/4; echo; printf last")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n1/4\n\nlast", "")
    ids = {"agentId": "coder", "taskId": "t1", "projectId": "p1"}
    thoughts = [{**ids, "thought": text, "line": line} for line, text in enumerate(["hello", "1/4", " ", "last"], 1)]
    assert without_time(history("agent:coder")) == thoughts
    for room in ("task:t1", "project:p1"):
        told = without_time(history(room))
        assert [body for body in told if "thought" in body] == thoughts
        states = [body for body in told if "status" in body]
        assert states[0] == {**ids, "status": "in_progress", "message": "started sh"}
        assert states[-1] == told[-1] == {**ids, "status": "completed", "message": "exit status 0", "progress": 100}


def test_progress_is_told_while_it_runs(wsapp: Shell, history: History) -> None:
    process = wsapp.start("run", "--agent", "a", "--task", "t1", "--", "sh", "-c",
                          r"printf '\r10%%'; sleep 0.5; printf '\r20%%'; read wait; echo", stdin=subprocess.PIPE)
    wait_until(lambda: [body.get("progress") for body in history("task:t1")] == [None, 10, 20], "20%")
    process.communicate(b"go\n", timeout=20)
    assert texts(history("agent:a")) == ["20%"]


def test_only_thoughts_without_a_task(wsapp: Shell, history: History) -> None:
    assert wsapp("run", "--agent", "a", "--", "echo", "50%").returncode == 0
    assert texts(history("agent:a")) == ["50%"]


def test_the_commands_options_are_its_own(wsapp: Shell) -> None:
    assert wsapp("run", "--agent", "a", "echo", "--agent", "-n", "--help").stdout == "--agent -n --help\n"


@pytest.mark.parametrize(("command", "status", "message"), [
    ("exit 3", 3, "exit status 3"), ("kill -9 $$", 137, "ended by SIGKILL"), ("exit 200", 200, "exit status 200"),
])
def test_exit_status(wsapp: Shell, history: History, command: str, status: int, message: str) -> None:
    assert wsapp("run", "--agent", "a", "--task", "t1", "--", "sh", "-c", command).returncode == status
    assert [(body["status"], body.get("message")) for body in history("task:t1")][-1] == ("failed", message)


def test_what_cannot_be_run(wsapp: Shell, history: History, tmp_path: Path) -> None:
    done = wsapp("run", "--agent", "a", "--task", "t1", "--", "no-such-command")
    assert (done.returncode, "command not found" in done.stderr) == (127, True)
    assert history("task:t1")[-1]["message"] == "command not found"
    (tmp_path / "plain").write_text("x")
    assert wsapp("run", "--agent", "a", "--", str(tmp_path / "plain")).returncode == 126


def test_bad_ids_are_told_before_anything_runs(wsapp: Shell, tmp_path: Path) -> None:
    for option in (["--agent", "a\tb"], ["--agent", "a", "--task", "x" * 201], ["--agent", "a", "--project", "\n"]):
        done = wsapp("run", *option, "--", "touch", str(tmp_path / "ran"))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGHUP is not ignored, also when the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(wsapp: Shell, history: History, number: signal.Signals, heard: None) -> None:
    script = f"trap 'echo caught; exit 5' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    # Like a service: no terminal, from which the command would get Ctrl-C itself.
    process = wsapp.start("run", "--agent", "a", "--task", "t1", "--", "sh", "-c", script, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (5, b"caught\n", b"")
    assert history("task:t1")[-1]["message"] == "exit status 5"


def test_output_that_is_not_text(wsapp: Shell, history: History) -> None:
    script = r"printf 'bad \377\n\033[31mred\033[0m\n'; head -c 100000 /dev/zero | tr '\0' x; echo; echo end >&2"
    process = wsapp.start("run", "--agent", "a", "--", "sh", "-c", script)
    out, err = process.communicate(timeout=20)
    assert out == b"bad \xff\n\x1b[31mred\x1b[0m\n" + b"x" * 100_000 + b"\n"
    assert err == b"end\n"
    told = history("agent:a")
    out_lines = [body["thought"] for body in told if "stream" not in body]
    assert out_lines[:2] == ["bad \ufffd", "red"]
    assert out_lines[2] == "x" * 16_384 + " … [83616 more bytes]"
    assert [body["thought"] for body in told if body.get("stream") == "stderr"] == ["end"]


def test_fast_output_loses_nothing(wsapp: Shell, history: History) -> None:
    """Both streams at once, far faster than Redis takes it."""
    count = 20_000
    script = f"import sys\nfor n in range({count}): print(n); print(-n, file=sys.stderr)"
    done = wsapp("run", "--agent", "a", "--task", "t1", "--", sys.executable, "-c", script,
                 environ={"WSAPP_HISTORY_SIZE": "100000", "WSAPP_HISTORY_BYTES": "100000000"})
    assert done.returncode == 0
    assert done.stdout.split() == [str(n) for n in range(count)]
    told = history("agent:a")
    assert [body["thought"] for body in told if "stream" not in body] == [str(n) for n in range(count)]
    assert [body["thought"] for body in told if "stream" in body] == [str(-n) for n in range(count)]
    assert [body["line"] for body in told] == list(range(1, 2 * count + 1))


def test_redis_away_all_the_time(wsapp: Shell) -> None:
    done = wsapp("run", "--agent", "a", "--task", "t1", "--", "sh", "-c", "seq 1 50; exit 4",
                 environ={"REDIS_URL": f"redis://127.0.0.1:{free_port()}"})
    assert (done.returncode, done.stdout.split()) == (4, [str(n) for n in range(1, 51)])
    first, last = done.stderr.strip().split("\n")
    assert "the command goes on" in first
    assert last == "wsapp run: 52 of 52 events were not published"


def test_no_redis_at_all_is_the_same(wsapp: Shell) -> None:
    done = wsapp("run", "--agent", "a", "--", "echo", "x", environ={"REDIS_URL": ""})
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert "REDIS_URL is not set" in done.stderr


def test_redis_comes_back(wsapp: Shell) -> None:
    with Valkey() as server:
        process = wsapp.start("run", "--agent", "a", "--", "sh", "-c", "echo 0; read go; seq 1 100; read go; echo end",
                              stdin=subprocess.PIPE, environ={"REDIS_URL": server.url}, bufsize=0)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        server.kill()
        process.stdin.write(b"go\n")
        assert b"the command goes on" in process.stderr.readline()
        server.restart()
        _, err = process.communicate(b"go\n", timeout=30)
        assert (process.returncode, err) == (0, b"")
        tail = Shell({"REDIS_URL": server.url, "WSAPP_KEY_PREFIX": wsapp.environ["WSAPP_KEY_PREFIX"]})
        seen = tail("tail", "agent:a", "--last", "1", "--count", "1").stdout
        assert seen.split(" ", 3)[3] == "end\n"


def test_a_reader_that_goes_away(wsapp: Shell, history: History) -> None:
    process = wsapp.start("run", "--agent", "a", "--", "sh", "-c", "sleep 0.3; seq 1 2000; exit 3")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(20) == 3
    assert texts(history("agent:a")) == [str(n) for n in range(1, 2001)]


def test_a_child_of_the_command_that_stays(wsapp: Shell, tmp_path: Path) -> None:
    """Output held open by a background process is left after a silence, its writer lives on."""
    pid = tmp_path / "pid"
    done = wsapp("run", "--agent", "a", "--", "sh", "-c", f"sleep 30 & echo $! > {pid}; echo started")
    assert (done.returncode, done.stdout) == (0, "started\n")
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_memory_is_bounded(wsapp: Shell) -> None:
    """A hung Redis, 20 MB of output: the command ends, its runner stays small."""
    with Valkey() as server:
        server.stop_process()
        script = "import resource, subprocess, sys"
        script += "\nsubprocess.run([sys.executable, '-m', 'wsapp', 'run', '--agent', 'a', '--', 'sh', '-c',"
        script += " 'head -c 20000000 /dev/zero | tr \"\\\\0\" x | fold -w 100'], stdout=subprocess.DEVNULL)"
        script += "\nprint(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
        environ = {**wsapp.environ, "REDIS_URL": server.url}
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True,
                              timeout=110)
        assert int(done.stdout) < 150, f"{done.stdout} MB after {time.monotonic() - begun} s"
        assert "events were not published" in done.stderr
        server.cont()


def test_small_limits_of_an_event_still_take_lines() -> None:
    story = Story("a", "t", "p", 5000)
    assert story.thought("\x00" * story.max_line).body
