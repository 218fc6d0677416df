"""Rooms divided over partitions: on a real cluster of three primaries and a replica, and on one plain server.

The tests of a module run in their order: the last one kills a node of the cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.fleet import fresh, publish
from tests.clients.python_client import PythonClient
from tests.clients.recorder import Recorder
from tests.cluster.test_stream import Sse
from tests.fault.load import Load
from tests.harness import OURS, ROOT, Reply, Server, http, wait_until
from tests.valkey_cluster import ValkeyCluster
from wsapp import Emitter
from wsapp.backends.redis_keys import partition_tags, slot_of
from wsapp.core.api_keys import make_key
from wsapp.core.partitions import partition_of
from wsapp.errors import PartitionMismatch

pytestmark = [pytest.mark.cluster]

COUNT = 4
KEY, SECRET = make_key("all", ["publish", "read", "admin"], 0.0)
ENV = {"WSAPP_PARTITIONS": str(COUNT), "MAX_EVENTS_PER_SEC": "2000",
       "WSAPP_API_KEYS": f"all:{'+'.join(KEY.scopes)}:{KEY.digest}"}


@pytest.fixture(scope="module")
def valkeys() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(primaries=3, replicas=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def divided(valkeys: ValkeyCluster) -> Iterator[Server]:
    """Two workers on the cluster."""
    with Server(2, redis_url=valkeys.url, env=ENV, app="tests.apps.host:app") as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    """Two workers on one server that is no cluster."""
    with Server(2, env=ENV) as server:
        yield server


@pytest.fixture
def clients() -> Iterator[list[Recorder]]:
    """To be closed after the test."""
    opened: list[Recorder] = []
    yield opened
    for client in opened:
        client.close()


def come(clients: list[Recorder], server: Server, count: int = 1) -> list[Recorder]:
    fresh_ones: list[Recorder] = [PythonClient(server.url) for _ in range(count)]
    clients += fresh_ones
    return fresh_ones


def agent_in(partition: int, kind: str = "agent") -> str:
    """An id whose room is in a partition."""
    return next(id for id in iter(fresh, None) if partition_of(f"{kind}:{id}", COUNT) == partition)


def seqs(client: Recorder, agent: str) -> list[int]:
    """What came of an agent, by its number in the room."""
    return [item["seq"] for item in client.items() if item["agentId"] == agent]




@pytest.fixture(params=["divided", "plain"])
def either(request: pytest.FixtureRequest) -> Server:
    """The cluster and the plain server."""
    server: Server = request.getfixturevalue(request.param)
    return server


def test_rooms_of_all_partitions_in_their_order(either: Server, clients: list[Recorder]) -> None:
    agents = [agent_in(number % COUNT) for number in range(8)]
    for client in come(clients, either, 4):
        for agent in agents:
            client.subscribe("agent", agent)
    calls = [("agent-thought", {"agentId": agents[number % 8], "thought": str(number)}) for number in range(240)]
    receipts = either.emitter.publish_many(calls)
    assert len({receipt.id for receipt in receipts}) == 240
    for client in clients:
        client.wait(lambda client=client: len(client.items()) >= 240, "all of them")
        for agent in agents:
            assert seqs(client, agent) == list(range(1, 31))
        assert len(set(client.ids())) == 240


def test_an_event_of_several_rooms_comes_once(either: Server, clients: list[Recorder]) -> None:
    agent, project, task = agent_in(1), agent_in(2, "project"), agent_in(3, "task")
    everywhere, of_agent, of_task = come(clients, either, 3)
    for client, kind, id in ((everywhere, "agent", agent), (everywhere, "project", project), (everywhere, "task", task),
                             (of_agent, "agent", agent), (of_task, "task", task)):
        client.subscribe(kind, id)
    also = {"also_to": [f"project:{project}", f"task:{task}"]}
    ids = []
    for number in range(50):
        thought = {"agentId": agent, "thought": str(number)}
        receipt = either.emitter.broadcast_agent_thought(thought, key=f"{agent}-{number}", **also)
        again = either.emitter.broadcast_agent_thought(thought, key=f"{agent}-{number}", **also)
        assert (again.id, again.duplicate, again.places) == (receipt.id, True, receipt.places)
        assert [(place.room, place.seq) for place in receipt.places] == [
            (f"agent:{agent}", number + 1), (f"project:{project}", number + 1), (f"task:{task}", number + 1)]
        ids.append(receipt.id)
    for client in (everywhere, of_agent, of_task):
        client.wait_ids(ids)
        assert len(client.items()) == 50, "each once"


def test_a_session_goes_on_at_another_worker(divided: Server, clients: list[Recorder]) -> None:
    agents = [agent_in(number) for number in range(COUNT)]
    [client] = come(clients, divided)
    for agent in agents:
        client.subscribe("agent", agent)
    ids = [publish(divided, agent, 5) for agent in agents]
    for some in ids:
        client.wait_ids(some)
    worker = divided.worker_of(client.local_port())
    divided.kill_worker(worker or 0)
    client.wait_drop()
    missed = [divided.emitter.broadcast_agent_thought({"agentId": agent, "thought": "missed"},
                                                      also_to=[f"agent:{agents[0]}"]).id for agent in agents]
    assert client.wait_session(2)["recovered"] is True
    client.wait(lambda: set(missed) <= set(client.ids()), "what was missed")
    for some in ids:
        client.wait_ids(some)
    wait_until(lambda: divided.ready() and len(divided.worker_pids()) == 2, "the worker is replaced")


def test_the_command_line_and_the_stream(divided: Server) -> None:
    agent, task = agent_in(0), agent_in(3, "task")
    env = {**{name: value for name, value in os.environ.items() if not name.startswith(OURS)}, **ENV,
           "REDIS_URL": divided.redis_url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "wsapp"]
    rooms = [f"agent:{agent}", f"task:{task}"]
    for number in range(3):
        divided.emitter.broadcast_agent_thought({"agentId": agent, "thought": f"said {number}"}, also_to=rooms[1:])
    tail = subprocess.run([*command, "tail", *rooms, "--since", "0", "--count", "3", "--json"],
                          env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert [line.count('"said ') for line in tail.stdout.splitlines()] == [1, 1, 1], tail.stdout
    wrong = subprocess.run([*command, "emit", "thought", "--agent", agent, "x"], env={**env, "WSAPP_PARTITIONS": "1"},
                           cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 1
    assert "WSAPP_PARTITIONS=1: set it to 4" in wrong.stderr


def ask(server: Server, path: str, body: object = None, **headers: str) -> Reply:
    """One call of the server API, to whichever worker."""
    data = None if body is None else json.dumps(body).encode()
    return http(f"{server.url}/api/v1{path}", data,
                headers={"Content-Type": "application/json", "X-API-Key": SECRET, **headers})


def said(agent: str, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "agent-thought", "data": {"agentId": agent, "thought": text}, **more}


def test_publishing_over_http_and_reading_histories(either: Server) -> None:
    agents = [agent_in(number) for number in range(COUNT)]
    task = f"task:{agent_in(3, 'task')}"
    events = [said(agents[number % COUNT], str(number)) for number in range(20)]
    for duplicate in (False, True):
        reply = ask(either, "/publish/batch", {"events": events}, **{"Idempotency-Key": agents[0]})
        receipts = reply.json()["receipts"]
        assert (reply.status, {told["status"] for told in receipts}) == (200, {"accepted"})
        assert [told["duplicate"] for told in receipts] == [duplicate] * 20
        assert [next(iter(told["positions"].values()))["seq"] for told in receipts] == [
            number // COUNT + 1 for number in range(20)]
        one = ask(either, "/publish", said(agents[1], "also", alsoTo=[task]), **{"Idempotency-Key": f"{task}-1"}).json()
        assert (one["duplicate"], {room: at["seq"] for room, at in one["positions"].items()}) == (
            duplicate, {f"agent:{agents[1]}": 6, task: 1})
    for number, agent in enumerate(agents):
        expected = [str(text) for text in range(number, 20, COUNT)] + ["also"] * (number == 1)
        for way, texts in (("since=0&limit=2", expected), ("limit=2", expected[::-1])):
            path, read = f"/rooms/agent:{agent}/history?{way}", []
            while path:
                page = ask(either, path).json()
                read += [event["data"]["thought"] for event in page["events"]]
                path = (page["next"] or "").removeprefix("/api/v1")
            assert read == texts
        whole = ask(either, f"/rooms/agent:{agent}/history")
        same = ask(either, f"/rooms/agent:{agent}/history", **{"If-None-Match": whole.headers["etag"]})
        assert same.status == 304
    assert [event["id"] for event in ask(either, f"/rooms/{task}/history").json()["events"]] == [one["id"]]


def test_a_stream_of_rooms_in_all_partitions_goes_on_where_it_was(either: Server) -> None:
    """What is in two partitions at once may come again after a return: its second room has no place in the first."""
    agents = [agent_in(number) for number in range(COUNT)]
    rooms = [f"agent:{agent}" for agent in agents]
    got: list[str] = []
    sent: list[str] = []
    last = ",".join(f"{room}:0" for room in rooms)
    for turn in range(4):
        receipts = ask(either, "/publish/batch", {"events": [
            said(agents[number % COUNT], f"missed {turn}") for number in range(2 * COUNT)] + [
            said(agents[turn], f"of two {turn}", alsoTo=[rooms[turn - 1]])]}).json()["receipts"]
        sent += [told["id"] for told in receipts]
        with Sse(either, *rooms, last=last) as stream:
            told = stream.first()
            repeats = told["missed"] - len(receipts)
            assert told["recovered"] is True and 0 <= repeats <= turn
            got += [came.data["id"] for came in stream.take(told["missed"])]
            assert all(either.emitter.watchers(room) for room in rooms)
            live = [ask(either, "/publish", said(agent, f"live {turn}")).json()["id"] for agent in agents]
            got += [came.data["id"] for came in stream.take(COUNT)]
            sent += live
            last = stream.id
    assert sorted(set(got)) == sorted(sent)
    heads = [ask(either, f"/rooms/{room}/history?limit=1").json() for room in rooms]
    assert last == ",".join(f"{head['seq']}@{head['epoch']}" for head in heads)


@pytest.mark.parametrize("partitions", ["1", "2"])
def test_another_number_of_partitions_is_refused(plain: Server, partitions: str) -> None:
    with Emitter(plain.redis_url, partitions=int(partitions), timeout=2.0) as emitter, pytest.raises(
            PartitionMismatch, match=f"WSAPP_PARTITIONS={partitions}: set it to 4"):
        emitter.broadcast_agent_thought({"agentId": "a", "thought": "x"})


def test_a_server_with_another_number_does_not_start(plain: Server) -> None:
    server = Server(1, redis_url=plain.redis_url, env={"WSAPP_PARTITIONS": "2"})
    try:
        assert server.start(wait=False).process.wait(30) == 3, "gunicorn's own: a worker failed to boot"
        assert "WSAPP_PARTITIONS=2: set it to 4" in server.log_tail()
    finally:
        server.close()


def modes(client: Recorder) -> list[str]:
    """What the client was told of its worker's broker."""
    return [seen.args[0]["mode"] for seen in client.all("mode")]


def moved_on(client: Recorder, room: str) -> bool:
    return any(seen.args[0]["room"] == room for seen in client.all("resync"))


def nothing_silent(client: Recorder, agent: str, load: Load) -> bool:
    """Everything came, or the client was told that the room goes on elsewhere."""
    return set(load.ids) <= set(client.ids()) or moved_on(client, f"agent:{agent}")


def test_a_slot_that_is_moved_is_followed(divided: Server, valkeys: ValkeyCluster, clients: list[Recorder]) -> None:
    """Nobody's publish fails; watchers have every event, or are told that the room goes on elsewhere."""
    tag = partition_tags(COUNT)[2]
    source = valkeys.owner(slot_of(tag))
    target = next(node for node in valkeys.nodes[1:3] if node is not source)
    agent, other = agent_in(2), agent_in(1)
    for client in come(clients, divided, 3):
        client.subscribe("agent", agent)
        client.subscribe("agent", other)
    with Load(divided, agent, per_second=200) as load, Load(divided, other, per_second=50) as undisturbed:
        load.more(100)
        valkeys.move(slot_of(tag), source, target)
        load.more(200)
    assert load.refused <= 2, "a moment of TRYAGAIN at most"
    assert undisturbed.refused == 0
    for client in clients:
        client.wait_ids(undisturbed.ids)
        assert not moved_on(client, f"agent:{other}")
        client.wait(lambda client=client: load.ids[-1] in client.ids() and nothing_silent(client, agent, load),
                    "everything, or a word about what is lost")


def test_a_node_that_dies_takes_only_its_partitions(divided: Server, valkeys: ValkeyCluster,
                                                    clients: list[Recorder]) -> None:
    """Its replica is promoted; meanwhile the other partitions go on, and its own queue and are told."""
    tags = partition_tags(COUNT)
    victim = valkeys.nodes[0]
    hit = next(number for number, tag in enumerate(tags) if valkeys.owner(slot_of(tag)) is victim)
    safe = next(number for number, tag in enumerate(tags) if valkeys.owner(slot_of(tag)) is not victim)
    assert hit != 0, "sessions are in partition 0"
    lost, kept = agent_in(hit), agent_in(safe)
    for client in come(clients, divided, 3):
        client.subscribe("agent", lost)
        client.subscribe("agent", kept)
    with Load(divided, lost, per_second=50, view=True) as queued, Load(divided, kept, per_second=50) as undisturbed:
        queued.more(30)
        victim.kill()
        began = time.monotonic()
        away = ask(divided, f"/rooms/agent:{lost}/history")
        assert (away.status, away.json()["retryable"]) == (503, True)
        told = ask(divided, "/publish", said(lost, "by HTTP"))
        assert (told.status, told.json()["status"]) == (202, "queued")
        assert ask(divided, f"/rooms/agent:{kept}/history").status == 200
        wait_until(lambda: queued.statuses >= {"accepted", "queued"}, "publishes are queued")
        wait_until(lambda: not divided.ready(), "one of the workers says so")
        wait_until(divided.ready, "the replica has taken over")
        assert time.monotonic() - began < 30
        queued.more(30)
    assert undisturbed.refused == 0
    for client in clients:
        client.wait_ids(undisturbed.ids)
        assert not moved_on(client, f"agent:{kept}")
        client.wait(lambda client=client: queued.ids[-1] in client.ids() and nothing_silent(client, lost, queued),
                    "everything, or a word about what is lost")
        client.wait(lambda client=client: modes(client)[-1:] in ([], ["normal"]), "the mode is normal again")
    assert "degraded" in [mode for client in clients for mode in modes(client)]


