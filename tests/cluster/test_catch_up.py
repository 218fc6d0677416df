"""Clients that come back after much was missed, and many that come back at once: real sockets, a real Valkey."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import Any

import pytest
import redis

from tests.clients.fleet import fresh
from tests.clients.raw_client import RawSocket
from tests.cluster.test_stream import Sse
from tests.harness import Server, wait_until
from tests.valkey import Valkey

pytestmark = [pytest.mark.cluster]

CLIENTS = 200
CROWD = 60


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    env = {"WSAPP_CATCH_UP_LIMIT": "300", "WSAPP_CATCH_UP_TAIL": "20", "WSAPP_HEADS_INTERVAL": "0",
           "WSAPP_HEARTBEAT": "0.5", "MAX_EVENTS_PER_SEC": "1000"}
    with Server(workers=1, env=env) as server:
        yield server


@pytest.fixture
def statistics(server: Server) -> Iterator[redis.Redis]:
    """The server's own count of commands."""
    with redis.Redis.from_url(server.redis_url) as client:
        yield client


def reads(statistics: redis.Redis) -> int:
    """History reads so far: each is one XRANGE of its script."""
    return int(statistics.info("commandstats").get("cmdstat_xrange", {}).get("calls", 0))


def enter(server: Server, request: list[object], auth: dict[str, Any]) -> dict[str, Any]:
    """Subscribe and leave; the auth to come back with."""
    with RawSocket(server, auth) as client:
        assert client.request(json.dumps(request))["ok"]
        return {**auth, "sessionId": client.told["pid"]}


def come_back(server: Server, auth: dict[str, Any], last: str,
              here: Callable[[], object] = lambda: None) -> tuple[dict[str, Any], list[list[Any]]]:
    """Resume, and say that one is `here`; what `session` says, and all events up to the one that contains `last`."""
    with RawSocket(server, auth) as client:
        [told] = client.event("session")
        here()
        came: list[list[Any]] = []
        text = ""
        while last not in text:
            text = client.packet("42")
            came.append(json.loads(text[2:]))
        return told, came


@pytest.mark.parametrize("auth", [{}, {"wsapp": 1}], ids=["plain", "sdk"])
def test_a_long_absence_brings_states_what_was_skipped_and_the_newest(server: Server, auth: dict[str, Any]) -> None:
    project = fresh("project")
    back = enter(server, ["subscribe-project", project], auth)
    absence(server, project)
    told, came = come_back(server, back, '"n":29')
    assert (told["recovered"], told["missed"], told["skipped"]) == (True, 431, 405)
    assert [event[0] for event in came] == ["task-update"] * 5 + ["alarm", "shed"] + ["note"] * 20
    assert [event[1]["progress"] for event in came[:5]] == [95, 96, 97, 98, 99]
    shed = came[6][1]
    assert {**shed, "room": ""} == {"room": "", "from": 1, "to": 411, "count": 405, "reason": "catch-up",
                                    "worstPriority": 5}
    with RawSocket(server, {**back, "positions": {shed["room"]: {"epoch": told["rooms"][shed["room"]]["epoch"],
                                                                 "seq": 431}}}) as client:
        page = client.request(json.dumps(["history", {"room": shed["room"], "since": 0, "limit": 411}]))
        assert [event["seq"] for event in page["events"]] == list(range(1, 412)), "the rest on demand"


def test_a_stream_is_paced_too_and_its_place_is_exact(server: Server) -> None:
    """Whoever leaves anywhere and comes back with the last id loses nothing that was not told."""
    project = fresh("project")
    room = f"project:{project}"
    absence(server, project)
    with Sse(server, room, since=f"{room}:0") as stream:
        told = stream.first()
        assert (told["recovered"], told["missed"], told["skipped"]) == (True, 431, 405)
        came = [next(stream.events) for _ in range(28)]
    names = [one.event for one in came]
    assert names == ["task-update"] * 5 + ["alarm", "ack-wanted", "shed"] + ["note"] * 20
    assert {one.id.partition("@")[0] for one in came[:7]} == {"0"}
    assert [one.id.partition("@")[0] for one in came[7:]] == [str(seq) for seq in range(411, 432)]
    for cut in (0, 6, 7, 20):
        expected = came if cut < 7 else came[cut + 1:]
        with Sse(server, room, last=came[cut].id) as stream:
            assert stream.first()["missed"] == (431 if cut < 7 else len(expected))
            rest = [next(stream.events) for _ in expected]
        assert [(one.event, one.data) for one in rest] == [(one.event, one.data) for one in expected]


def absence(server: Server, project: str) -> None:
    """400 updates of five tasks, an alarm and 30 notes."""
    for number in range(400):
        server.emitter.broadcast_task_update(
            {"taskId": f"t{number % 5}", "status": "in_progress", "progress": number % 100},
            also_to=[f"project:{project}"])
    server.emitter.broadcast_project_event(project, "alarm", {"n": 1}, critical=True)
    for number in range(30):
        server.emitter.broadcast_project_event(project, "note", {"n": number})


@pytest.mark.parametrize("way", ["hung", "killed"])
def test_a_redis_that_is_away_for_a_second_costs_nobody_a_session(way: str) -> None:
    """Clients come back in the middle of it, and wait; a newcomer does not."""
    project = fresh("project")
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with Valkey(*durable) as valkey, Server(1, valkey.url) as server, ThreadPoolExecutor(CROWD) as pool:
        backs = list(pool.map(lambda _: enter(server, ["subscribe-project", project], {}), range(CROWD)))
        for number in range(20):
            server.emitter.broadcast_project_event(project, "note", {"n": number})
        (valkey.stop_process if way == "hung" else valkey.kill)()
        here = Semaphore(0)
        running = [pool.submit(come_back, server, back, '"last"', here.release) for back in backs]
        with RawSocket(server) as newcomer:
            [told] = newcomer.event("session")
        assert "reason" not in told
        time.sleep(1.0)
        assert not any(one.done() for one in running)
        if way == "hung":
            valkey.cont()
        else:
            valkey.start(valkey.port)
        assert all(here.acquire(timeout=60) for _ in running)
        wait_until(server.ready, "ready again")
        server.emitter.broadcast_project_event(project, "last", {"n": 1})
        answers = [one.result(60) for one in running]
    if way == "killed":  # nobody can know that it kept all
        assert {told["reason"] for told, _ in answers} == {"epoch"}
        return
    for told, came in answers:
        assert told["recovered"] is True
        numbers = [event[1]["seq"] for event in came if event[0] != "mode"]
        assert numbers == list(range(1, 22)), "in order, without a hole, each once"


def test_clients_that_come_back_at_once_share_their_history_reads(server: Server, statistics: redis.Redis) -> None:
    """200 clients in one room lose their worker to kill -9 and come back while events go on."""
    project = fresh("project")
    request = ["subscribe-project", project]
    with ThreadPoolExecutor(CLIENTS) as pool:
        backs = list(pool.map(lambda _: enter(server, request, {}), range(CLIENTS)))
        for number in range(250):
            server.emitter.broadcast_project_event(project, "note", {"n": number})
        [worker] = server.worker_pids()
        server.kill_worker(worker)
        wait_until(lambda: server.worker_pids() and server.ready(), "the worker is replaced")
        before, here = reads(statistics), Semaphore(0)
        running = [pool.submit(come_back, server, back, '"last"', here.release) for back in backs]
        for number in range(CLIENTS):
            assert here.acquire(timeout=60)
            if number % 10 == 0:
                server.emitter.broadcast_project_event(project, "note", {"n": "live"})
        server.emitter.broadcast_project_event(project, "last", {"n": 1})
        for one in running:
            told, came = one.result(60)
            assert told["recovered"] is True
            seqs = [event[1]["seq"] for event in came]
            assert seqs == list(range(1, len(seqs) + 1)), "in order, without a hole, each once"
    count = reads(statistics) - before
    print(f"{CLIENTS} clients: {count} history reads")
    assert count < CLIENTS / 4
