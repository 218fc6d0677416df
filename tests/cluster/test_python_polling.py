"""python-socketio on long polling: as many packets as it bears, and back after everything that ends a connection."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.clients.fleet import Fleet, fresh, publish
from tests.clients.recorder import Recorder
from tests.harness import Server

pytestmark = [pytest.mark.cluster, pytest.mark.node]

ENV = {"MAX_EVENTS_PER_SEC": "1000", "WSAPP_DRAIN_TIMEOUT": "4"}


@pytest.mark.parametrize("kind", ["python", "npm"])
def test_three_hundred_echoes(host: Server, fleet: Fleet, kind: str) -> None:
    """All asked at once, so that the answers come in crowds."""
    client = fleet.open(host, kind, "polling")
    answers: dict[int, object] = {}

    def ask(number: int) -> None:
        answers[number] = client.request("host-echo", number)["echo"]

    asking = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(300)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(60)
    assert answers == {number: number for number in range(300)}
    assert not client.all("disconnect")


@pytest.mark.parametrize("kind", ["python", "npm"])
def test_a_hundred_missed_events_are_replayed(fleet: Fleet, kind: str) -> None:
    agent = fresh("agent")
    with Server(1, env=ENV) as server:
        first = fleet.open(server, kind, "polling")
        first.subscribe("agent", agent)
        seen = publish(server, agent, 1)
        first.wait_ids(seen)
        session = first.sessions[0]["sessionId"]
        first.close()
        missed = publish(server, agent, 100, 1)
        again = fleet.open(server, kind, "polling", auth={"sessionId": session})
        assert again.sessions[0]["recovered"] is True
        again.wait_ids(missed)
        again.wait_ids(publish(server, agent, 1, 101))
        assert not again.all("disconnect")


def both(fleet: Fleet, server: Server, count: int) -> list[Recorder]:
    """`count` of each kind."""
    return [*fleet.many(server, "python", "polling", count), *fleet.many(server, "npm", "polling", count)]


def test_a_drain_brings_everybody_back(fleet: Fleet) -> None:
    agent = fresh("agent")
    with Server(2, env=ENV) as server:
        clients = both(fleet, server, 8)
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        for client in clients:
            client.wait_for("server-shutdown")
        missed = publish(server, agent, 5)
        server.start()
        for client in clients:
            assert client.wait_session(2, 60)["recovered"] is True
        ids = [*missed, *publish(server, agent, 3, 5)]
        for client in clients:
            client.wait_ids(ids)


def test_a_reload_moves_everybody(fleet: Fleet) -> None:
    agent = fresh("agent")
    with Server(2, env=ENV) as server:
        clients = both(fleet, server, 6)
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        server.process.send_signal(signal.SIGHUP)
        ids = publish(server, agent, 20)
        for client in clients:
            client.wait_session(2, 60)
            client.wait_ids(ids)
            assert client.sessions[1]["recovered"] is True
