"""`wsapp tail` in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess

from tests.cli.conftest import Shell
from tests.harness import wait_until
from tests.valkey import Valkey
from wsapp.cli.tail import as_text
from wsapp.core.events import parse_record
from wsapp.emitter import Emitter


def thoughts(emitter: Emitter, *texts: object, **options: object) -> None:
    for text in texts:
        emitter.broadcast_agent_thought({"agentId": "coder", "thought": str(text)}, **options)


def read_lines(process: subprocess.Popen[bytes], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().decode().rstrip("\n") for _ in range(count)]


def said(lines: list[str]) -> list[str]:
    return [line.split(" ", 3)[3] for line in lines]


def test_history_then_live_then_ctrl_c(wsapp: Shell, emitter: Emitter) -> None:
    thoughts(emitter, *range(15))
    process = wsapp.start("tail", "agent:coder")
    assert said(read_lines(process, 10)) == [str(n) for n in range(5, 15)]
    thoughts(emitter, "live")
    assert said(read_lines(process, 1)) == ["live"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_since_and_count_over_rooms_each_once(wsapp: Shell, emitter: Emitter) -> None:
    thoughts(emitter, "a", "b", also_to=["task:t1"])
    emitter.broadcast_task_update({"taskId": "t1", "status": "in_progress", "progress": 42, "message": "m"})
    emitter.broadcast_project_event("p1", "deployed", {"v": 1})
    done = wsapp("tail", "agent:coder", "task:t1", "project:p1", "--since", "0", "--count", "4")
    assert said(done.stdout.splitlines()) == ["a", "b", "in_progress 42% m", 'deployed {"v": 1}']
    done = wsapp("tail", "agent:coder", "--since", "1", "--count", "1")
    assert said(done.stdout.splitlines()) == ["b"]


def test_a_room_in_which_nothing_was_ever_said(wsapp: Shell, emitter: Emitter) -> None:
    emitter.broadcast_project_event("p1", "begun")
    process = wsapp.start("tail", "agent:coder", "task:t1", "project:p1", "--since", "0", "--count", "3")
    assert said(read_lines(process, 1)) == ["begun null"]  # now it is subscribed
    thoughts(emitter, "first", also_to=["task:t1"])
    emitter.broadcast_task_update({"taskId": "t1", "status": "completed"})
    out, err = process.communicate(timeout=20)
    assert (said(out.decode().splitlines()), err) == (["first", "completed"], b"")


def test_many_pages_in_order(wsapp: Shell, emitter: Emitter) -> None:
    emitter.publish_many(("agent-thought", {"agentId": "coder", "thought": str(n)}) for n in range(1700))
    done = wsapp("tail", "agent:coder", "--since", "0", "--count", "1700", "--json")
    assert [json.loads(line)["data"]["thought"] for line in done.stdout.splitlines()] == [str(n) for n in range(1700)]


def test_json(wsapp: Shell, emitter: Emitter) -> None:
    receipt = emitter.broadcast_project_event("p1", "deployed", ["ü"], also_to=["task:t1"])
    line = json.loads(wsapp("tail", "task:t1", "--json", "--count", "1").stdout)
    assert line.pop("ts") > 0
    assert line == {"id": receipt.id, "event": "deployed", "rooms": {"project:p1": 1, "task:t1": 1}, "data": ["ü"]}


def test_live_only(wsapp: Shell, emitter: Emitter) -> None:
    thoughts(emitter, "old")
    process = wsapp.start("tail", "agent:coder", "--last", "0", "--count", "1", "--json")

    def heard() -> bool:
        thoughts(emitter, "new")
        return process.poll() is not None
    wait_until(heard, "the first live event", step=0.2)
    assert process.communicate()[0].count(b'"new"') == 1


def test_the_server_is_lost_and_begins_anew() -> None:
    with Valkey() as server, Emitter(server.url, timeout=5.0) as emitter:
        process = Shell({"REDIS_URL": server.url}).start("tail", "agent:coder")
        thoughts(emitter, "before")
        assert said(read_lines(process, 1)) == ["before"]
        server.restart()
        thoughts(emitter, "after")
        assert said(read_lines(process, 1)) == ["after"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert b"began anew" in err
        assert b"Traceback" not in err
        assert process.returncode == 130


def test_a_pattern_is_refused(wsapp: Shell) -> None:
    done = wsapp("tail", "agent:*", "--count", "1")
    assert done.returncode == 1
    assert "must not contain '*'" in done.stderr
    assert "name each room" in done.stderr


def test_a_reader_that_goes_away(wsapp: Shell, emitter: Emitter) -> None:
    process = wsapp.start("tail", "agent:coder", "--last", "0")
    assert process.stdout is not None
    process.stdout.close()

    def gone() -> bool:
        thoughts(emitter, "x")
        return process.poll() is not None
    wait_until(gone, "tail to notice", step=0.2)
    assert process.stderr is not None
    assert (process.returncode, process.stderr.read()) == (141, b"")
    process.stderr.close()


def test_a_thought_cannot_steer_the_terminal() -> None:
    body = json.dumps({"agentId": "a", "thought": "x\x1b[2Jy\r\x9b1mz"})
    record = f"0a\t1\t5\tis\tl\ta\tagent-thought\tagent:a\t7\te\n{body}"
    text = as_text(parse_record(record.encode()))
    assert text.endswith("agent:a #7 x\ufffd[2Jy\ufffd\ufffd1mz")


def test_json_does_not_steer_the_terminal_either(wsapp: Shell, emitter: Emitter) -> None:
    thoughts(emitter, "a\x9b2Jb\x7f\u2028c\x1b]0;x\x07")
    line = wsapp("tail", "agent:coder", "--json", "--count", "1").stdout
    assert line.rstrip("\n").isprintable()
    assert json.loads(line)["data"]["thought"] == "a\x9b2Jb\x7f\u2028c\x1b]0;x\x07"


def test_a_thought_forges_no_lines_of_other_rooms(wsapp: Shell, emitter: Emitter) -> None:
    thoughts(emitter, "first\n12:00:00.000 project:p1 #1 deployed", "second\r12:00:00.000 agent:x #1 no\x85no")
    shown = wsapp("tail", "agent:coder", "--last", "2", "--count", "2").stdout.splitlines()
    assert [line for line in shown if line[:1].isdigit()] == [shown[0], shown[2]]
    assert shown[1] == "             | 12:00:00.000 project:p1 #1 deployed"
    assert shown[2].endswith("second\ufffd12:00:00.000 agent:x #1 no\ufffdno")
