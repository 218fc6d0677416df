"""`wsapp drain` against a real server with two workers and real clients."""

from __future__ import annotations

import json
import os
import pty
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Shell
from tests.clients.python_client import PythonClient
from tests.harness import Server, wait_until
from wsapp.cli.drain import _choose
from wsapp.errors import RequestError

pytestmark = pytest.mark.cluster

CLIENTS = 12


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(2, env={"MAX_EVENTS_PER_SEC": "2"}) as running:
        yield running


@pytest.fixture
def drain(server: Server) -> Iterator[Shell]:
    shell = Shell({"REDIS_URL": server.redis_url, "WEBSOCKET_PORT": str(server.port)})
    yield shell
    shell("drain", "--undo")


@pytest.fixture
def clients(server: Server) -> Iterator[list[PythonClient]]:
    opened = [PythonClient(server.url) for _ in range(CLIENTS)]
    for client in opened:
        client.wait_session()
    yield opened
    for client in opened:
        client.close()


def standing(drain: Shell, *args: str) -> dict[str, dict[str, object]]:
    done = drain("drain", "--status", "--json", *args)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["worker"]: one for one in told}


def test_one_worker_then_all_then_back(server: Server, drain: Shell, clients: list[PythonClient]) -> None:
    for client in clients:
        client.subscribe("agent", "busy")
    one, other = sorted(standing(drain).items(), key=lambda item: -int(str(item[1]["clients"])))
    assert int(str(one[1]["clients"])) + int(str(other[1]["clients"])) == CLIENTS
    ids = [server.emitter.broadcast_agent_thought({"agentId": "busy", "thought": str(n)}).id for n in range(40)]

    done = drain("drain", "--worker", one[0][:6])
    assert (done.returncode, done.stdout.split()[0], "drained" in done.stdout) == (0, one[0], True), done
    moved = [client for client in clients if client.all("disconnect")]
    assert len(moved) == one[1]["clients"]
    for client in moved:
        assert len(client.all("server-shutdown")) == 1
        assert client.wait_session(2)["recovered"] is True
        # Over the rate most of it waited: it was sent before the goodbye, whatever the rate.
        first = client.seen[:client.seen.index(client.all("disconnect")[0])]
        assert sum(len(seen.args[0]) if isinstance(seen.args[0], list) else 1
                   for seen in first if seen.event == "agent-thought") == len(ids)
    assert [server.ready() for _ in range(6)] == [True] * 6, "the other one takes what comes"
    assert standing(drain)[other[0]]["clients"] == CLIENTS

    done = drain("drain", "--over", "0.3")
    assert done.returncode == 0, done.stderr
    assert "clients left" in done.stderr
    assert {server.get("/readyz").status for _ in range(6)} == {503}
    refused = server.get("/socket.io/?EIO=4&transport=polling")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert {told["state"] for told in standing(drain).values()} == {"drained"}

    assert drain("drain", "--undo").returncode == 0
    wait_until(lambda: sum(int(str(told["clients"])) for told in standing(drain).values()) == CLIENTS, "all are back")
    assert server.ready()
    for client in clients:
        client.wait_ids(ids)
        assert client.sessions[-1]["recovered"] is True


def test_progress_is_one_line_of_a_terminal(drain: Shell, clients: list[PythonClient]) -> None:
    ours, theirs = pty.openpty()
    process = drain.start("drain", "--over", "1", stderr=theirs)
    os.close(theirs)
    out, _ = process.communicate(timeout=60)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    drain("drain", "--undo")
    assert process.returncode == 0
    assert out.decode().count("drained") == 2
    assert shown.count("\r\x1b[K") >= 3
    assert f" of {len(clients)} clients left, 0 of 2 workers drained" in shown


def test_who_waits_no_longer_is_told_what_is_left(drain: Shell, clients: list[PythonClient]) -> None:
    done = drain("drain", "--over", "300", "--wait", "0.5", "--json")
    assert done.returncode == 1
    assert f"clients are left on {', '.join(standing(drain))}" in done.stderr
    assert drain("drain", "--undo").returncode == 0
    assert {told["state"] for told in standing(drain).values()} == {"serving"}
    assert sum(int(str(told["clients"])) for told in standing(drain).values()) >= len(clients) - 2


def test_a_server_is_found_by_its_port_or_all_are_meant(server: Server, drain: Shell) -> None:
    elsewhere = {"environ": {"WEBSOCKET_PORT": "1"}}
    told = drain("drain", **elsewhere)
    assert told.returncode == 1
    assert told.stderr.startswith("wsapp: no worker of ")
    assert all(boot in told.stderr for boot in standing(drain))
    assert drain("drain", "--status", "--all", **elsewhere).stdout.count("serving") == 2
    unknown = drain("drain", "--worker", "nobody")
    assert (unknown.returncode, "there is no worker nobody" in unknown.stderr) == (1, True)
    assert server.ready()


def test_without_redis_and_with_wrong_words(drain: Shell) -> None:
    away = drain("drain", environ={"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert (away.returncode, away.stderr.count("\n")) == (1, 1)
    assert "not reachable" in away.stderr
    assert drain("drain", "--undo", "--status").returncode == 2


def test_a_killed_worker_is_named(server: Server, drain: Shell) -> None:
    gone, told = next(iter(standing(drain).items()))
    server.kill_worker(int(str(told["pid"])))
    done = drain("drain", "--worker", gone)
    assert (done.returncode, f"worker {gone} does not answer" in done.stderr) == (1, True), done


def test_names_are_unique_or_refused() -> None:
    there = {"ab1": {"server": "here:1"}, "ab2": {"server": "there:1"}}
    assert list(_choose(there, [], ("ab2",), False, "here:1")) == ["ab2"]
    assert list(_choose(there, [], (), True, "nowhere:1")) == ["ab1", "ab2"]
    assert list(_choose(there, ["zz"], (), False, "here:1")) == ["ab1"]
    for missing, workers, everything, said in (([], ("ab",), False, "several workers begin with ab: ab1, ab2"),
                                               (["zz"], ("z",), False, "worker zz does not answer"),
                                               (["zz"], (), True, "no answer from zz")):
        with pytest.raises(RequestError, match=said):
            _choose(there, missing, workers, everything, "here:1")
