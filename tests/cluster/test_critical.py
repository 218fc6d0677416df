"""Critical events over two workers: nobody loses one, whatever dies (G6)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.clients.fleet import Fleet, fresh
from tests.clients.recorder import Recorder
from tests.harness import Server, wait_until
from tests.valkey import Valkey

pytestmark = [pytest.mark.cluster, pytest.mark.node]

KINDS = ["npm", "python"]
APP = "tests.apps.alarms:app"
QUICK = {"WSAPP_CRITICAL_FIRST": "0.3", "WSAPP_CRITICAL_ATTEMPTS": "3"}


@pytest.fixture(scope="module")
def quick() -> Iterator[Server]:
    """Two workers; an event comes again after 0.3, 0.6 and 1.2 s, then it is a dead letter."""
    with Server(2, app=APP, env=QUICK) as server:
        yield server


@pytest.fixture(scope="module")
def patient() -> Iterator[Server]:
    """Two workers that wait for a second and a half and do not give up."""
    with Server(2, app=APP, env={"WSAPP_CRITICAL_FIRST": "1.5", "WSAPP_CRITICAL_CAP": "1.5",
                                 "WSAPP_CRITICAL_ATTEMPTS": "1000"}) as server:
        yield server


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    """Two workers that give up after three sendings, none of which comes by itself before four seconds."""
    with Server(2, app=APP, env={"WSAPP_CRITICAL_FIRST": "5", "WSAPP_CRITICAL_ATTEMPTS": "3"}) as server:
        yield server


def alarm(server: Server, agent: str) -> str:
    return server.emitter.broadcast_agent_thought({"agentId": agent, "thought": "alarm"}, critical=True).id


def copies(client: Recorder, id: str) -> int:
    return [item["id"] for item in client.items()].count(id)


def await_copies(client: Recorder, id: str, count: int) -> None:
    client.wait(lambda: copies(client, id) >= count, f"copy {count} of {id}")


def states(server: Server, id: str) -> dict[str, str]:
    return {user: at["state"] for user, at in server.emitter.delivery_status(id)["users"].items()}


def watcher(fleet: Fleet, server: Server, kind: str, agent: str, user: str) -> Recorder:
    client = fleet.open(server, kind, auth={"user": user})
    client.subscribe("agent", agent)
    return client


def elsewhere(fleet: Fleet, server: Server, kind: str, user: str, other: Recorder) -> Recorder:
    """One more client of the user, on the other worker, in no room."""
    taken = server.worker_of(other.local_port())
    for _ in range(50):
        client = fleet.open(server, kind, auth={"user": user})
        if server.worker_of(client.local_port()) != taken:
            return client
        client.close()
    pytest.fail("every connection went to the same worker")


@pytest.mark.parametrize("kind", KINDS)
def test_acknowledged_once_it_comes_once(patient: Server, fleet: Fleet, kind: str) -> None:
    agent, user, slow = fresh("agent"), fresh("ada"), fresh("bob")
    ada, bob = (watcher(fleet, patient, kind, agent, name) for name in (user, slow))
    id = alarm(patient, agent)
    await_copies(ada, id, 1)
    assert ada.request("ack-event", id) == {"ok": True, "id": id}
    await_copies(bob, id, 3)  # by then a second copy would have come
    assert copies(ada, id) == 1
    assert states(patient, id) == {user: "acked", slow: "pending"}


def test_never_acknowledged_it_becomes_a_dead_letter(quick: Server, fleet: Fleet) -> None:
    agent, user = fresh("agent"), fresh("ada")
    ada = watcher(fleet, quick, "npm", agent, user)
    id = alarm(quick, agent)
    await_copies(ada, id, 3)
    wait_until(lambda: states(quick, id) == {user: "dead"}, "the dead letter")
    assert copies(ada, id) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_any_connection_of_the_user_may_acknowledge(patient: Server, fleet: Fleet, kind: str) -> None:
    agent, user = fresh("agent"), fresh("ada")
    ada = watcher(fleet, patient, kind, agent, user)
    tab = elsewhere(fleet, patient, kind, user, ada)
    id = alarm(patient, agent)
    await_copies(ada, id, 1)
    assert tab.request("ack-event", {"id": id})["ok"]
    assert states(patient, id) == {user: "acked"}
    stranger = fleet.open(patient, kind, auth={"user": fresh("eve")})
    assert stranger.request("ack-event", id)["error"]["code"] == "not_found"


@pytest.mark.parametrize("kind", KINDS)
def test_killed_before_it_was_acknowledged_another_worker_delivers_it(fleet: Fleet, kind: str) -> None:
    """The user's other tab, on the living worker and in no room, gets it; so does the first one when it is back."""
    agent, user = fresh("agent"), fresh("ada")
    with Server(2, app=APP, env={"WSAPP_CRITICAL_FIRST": "3"}) as server:
        ada = watcher(fleet, server, kind, agent, user)
        tab = elsewhere(fleet, server, kind, user, ada)
        id = alarm(server, agent)
        await_copies(ada, id, 1)
        worker = server.worker_of(ada.local_port())
        assert worker is not None and copies(tab, id) == 0
        server.kill_worker(worker)
        await_copies(tab, id, 1)
        ada.wait_session(2)
        await_copies(ada, id, 2)
        assert ada.request("ack-event", id)["ok"]
        assert states(server, id) == {user: "acked"}


@pytest.mark.parametrize("kind", KINDS)
def test_who_was_away_gets_it_on_return(patient: Server, fleet: Fleet, kind: str) -> None:
    """In a session of its own, without any room: it is the user's, not the connection's."""
    agent, user = fresh("agent"), fresh("ada")
    ada = watcher(fleet, patient, kind, agent, user)
    first, second = alarm(patient, agent), alarm(patient, agent)
    await_copies(ada, second, 1)
    assert ada.request("ack-event", first)["ok"]
    ada.close()
    back = fleet.open(patient, kind, auth={"user": user})
    await_copies(back, second, 1)
    assert back.request("ack-event", second)["ok"]
    again = fleet.open(patient, kind, auth={"user": user})
    assert again.request("update-metadata", {})["ok"]
    assert (copies(back, first), copies(again, first), copies(again, second)) == (0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_refused_it_becomes_a_dead_letter_and_is_requeued(slow: Server, fleet: Fleet, kind: str) -> None:
    agent, user = fresh("agent"), fresh("ada")
    ada = watcher(fleet, slow, kind, agent, user)
    id = alarm(slow, agent)
    told: list[dict[str, Any]] = []
    for attempts in (1, 2, 3):
        await_copies(ada, id, attempts)
        told.append(ada.request("nack-event", id))
    assert [(one["state"], one["attempts"]) for one in told] == [("pending", 1), ("pending", 2), ("dead", 3)]
    (letter,) = [one for one in slow.emitter.dead_letters(1000) if one["id"] == id]
    assert (letter["user"], letter["attempts"], letter["rooms"]) == (user, 3, [f"agent:{agent}"])
    assert letter["data"]["thought"] == "alarm"
    assert slow.emitter.requeue_dead_letter(id, user)
    await_copies(ada, id, 4)
    assert ada.request("ack-event", id)["ok"]
    assert states(slow, id) == {user: "acked"}


def test_the_publisher_waits_for_the_acknowledgement(patient: Server, fleet: Fleet) -> None:
    agent, user = fresh("agent"), fresh("ada")
    ada = watcher(fleet, patient, "python", agent, user)
    assert patient.post("/alarm", {"agent": agent, "wait": 0.1}).json()["acked"] is False
    with ThreadPoolExecutor(2) as pool:
        outside = patient.emitter.broadcast_agent_thought({"agentId": agent, "thought": "x"}, critical=True)
        waiting = pool.submit(patient.emitter.wait_for_ack, outside, 20.0, [user])
        inside = pool.submit(patient.post, "/alarm", {"agent": agent, "wait": 20})
        ada.wait(lambda: len(ada.ids()) >= 3, "three alarms")
        assert not waiting.done() and not inside.done()
        for id in ada.ids():
            assert ada.request("ack-event", id)["ok"]
        assert waiting.result(30) is True
        assert inside.result(30).json()["acked"] is True


def test_many_users_each_get_it_until_they_say_so(patient: Server, fleet: Fleet) -> None:
    agent = fresh("agent")
    clients = fleet.many(patient, "npm", "websocket", 30)  # anonymous: each one is a user
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    id = alarm(patient, agent)
    fleet.each(clients, lambda client: await_copies(client, id, 1))
    assert list(states(patient, id).values()) == ["pending"] * 30
    fleet.each(clients[:20], lambda client: client.request("ack-event", id))
    fleet.each(clients[20:], lambda client: await_copies(client, id, 2))
    assert [copies(client, id) for client in clients[:20]] == [1] * 20
    assert sorted(states(patient, id).values()) == ["acked"] * 20 + ["pending"] * 10
    fleet.each(clients[20:], lambda client: client.request("ack-event", id))
    assert patient.emitter.wait_for_ack(id, 10.0)


def test_workers_killed_in_a_stream_of_critical_events_lose_none(fleet: Fleet) -> None:
    """Whoever was sent one live, or replayed after a kill, has it kept: every user ends with every event."""
    agent, count = fresh("agent"), 120
    with Server(2, app=APP, env={"WSAPP_CRITICAL_FIRST": "1", "WSAPP_CRITICAL_ATTEMPTS": "1000"}) as server:
        users = [fresh("user") for _ in range(6)]
        clients = [watcher(fleet, server, KINDS[place % 2], agent, user) for place, user in enumerate(users)]
        ids = []
        for number in range(count):
            ids.append(alarm(server, agent))
            if number in (count // 3, 2 * count // 3):
                server.kill_worker(server.worker_pids()[number % 2])
            time.sleep(0.01)
        fleet.each(clients, lambda client: client.wait(lambda: set(ids) <= set(client.ids()), "all events"))
        wait_until(lambda: all(client.connected for client in clients), "all are back")
        for client in clients:
            assert all(client.request("ack-event", id)["ok"] for id in ids)
        for id in ids:
            assert states(server, id) == dict.fromkeys(users, "acked")


def test_redis_hung_delays_no_critical_event_for_long(fleet: Fleet) -> None:
    """SIGSTOP: what is published meanwhile is delivered here at once, and kept when Redis goes on."""
    agent, user = fresh("agent"), fresh("ada")
    with Valkey() as valkey, Server(1, valkey.url, app=APP, env={"WSAPP_CRITICAL_FIRST": "1"}) as server:
        ada = watcher(fleet, server, "python", agent, user)
        valkey.stop_process()
        try:
            told = [server.post("/alarm", {"agent": agent}).json() for _ in range(3)]
            for one in told:
                await_copies(ada, one["id"], 1)
            assert {one["status"] for one in told} == {"queued"}
        finally:
            valkey.cont()
        for one in told:
            await_copies(ada, one["id"], 2)
            assert ada.request("ack-event", one["id"])["ok"]
            assert states(server, one["id"]) == {user: "acked"}


def test_redis_away_delays_no_critical_event(fleet: Fleet) -> None:
    """Delivered at once, kept when Redis is back (empty), delivered again, acknowledged."""
    agent, user = fresh("agent"), fresh("ada")
    with Valkey() as valkey, Server(1, valkey.url, app=APP, env={"WSAPP_CRITICAL_FIRST": "1"}) as server:
        ada = watcher(fleet, server, "npm", agent, user)
        valkey.kill()
        began = time.monotonic()
        told = server.post("/alarm", {"agent": agent}).json()
        await_copies(ada, told["id"], 1)
        assert time.monotonic() - began < 2
        assert told["status"] == "queued"
        assert ada.request("ack-event", told["id"])["error"]["retryable"] is True
        valkey.restart()
        wait_until(server.ready, "ready again")
        await_copies(ada, told["id"], 2)
        assert ada.request("ack-event", told["id"])["ok"]
        assert states(server, told["id"]) == {user: "acked"}
