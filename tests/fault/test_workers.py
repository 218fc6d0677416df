"""Workers die, hang and are replaced under load; the account of every watcher stays whole."""

from __future__ import annotations

import os
import random
import signal

import pytest

from tests.clients.fleet import Fleet, fresh
from tests.fault.load import Load, account
from tests.harness import Server, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.node]

RATE = {"MAX_EVENTS_PER_SEC": "1000", "WSAPP_CATCH_UP_LIMIT": "0"}


@pytest.mark.parametrize("seed", [1])
def test_workers_killed_again_and_again(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    agent = fresh("agent")
    with Server(2, env=RATE) as server:
        clients = [*fleet.many(server, "npm", "websocket", 12), *fleet.many(server, "python", "websocket", 4)]
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        with Load(server, agent) as load:
            for _ in range(3):
                load.more(100)
                server.kill_worker(chance.choice(server.worker_pids()))
                wait_until(lambda: len(server.worker_pids()) == 2, "the worker is replaced")
            load.more(50)
        account(clients, load)


def test_a_hung_worker_loses_nothing(fleet: Fleet) -> None:
    agent = fresh("agent")
    with Server(2, env=RATE) as server:
        clients = fleet.many(server, "npm", "websocket", 12)
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        with Load(server, agent) as load:
            load.more(50)
            hung = server.worker_pids()[0]
            os.kill(hung, signal.SIGSTOP)
            load.more(200)
            os.kill(hung, signal.SIGCONT)
            load.more(50)
        account(clients, load)
        assert not [client for client in clients if client.all("disconnect")]


def test_a_reload_loses_nothing(fleet: Fleet) -> None:
    """SIGHUP: new workers, the old ones drain."""
    agent = fresh("agent")
    with Server(2, env={**RATE, "WSAPP_DRAIN_TIMEOUT": "2"}) as server:
        clients = [*fleet.many(server, "npm", "websocket", 12), *fleet.many(server, "python", "websocket", 4)]
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        before = set(server.worker_pids())
        with Load(server, agent) as load:
            load.more(50)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not before & set(server.worker_pids()), "every worker is new")
            load.more(50)
        account(clients, load)
        for client in clients:
            assert client.sessions[-1]["recovered"] is True


def test_vanishing_clients_cost_the_others_nothing(fleet: Fleet) -> None:
    """Half cut their connections without a word, again and again; the other half sees no difference."""
    agent = fresh("agent")
    with Server(2, env=RATE) as server:
        steady = fleet.many(server, "npm", "websocket", 6)
        flaky = [fleet.npm(server) for _ in range(6)]
        fleet.each([*steady, *flaky], lambda client: client.subscribe("agent", agent))
        with Load(server, agent) as load:
            for turn in range(1, 4):
                load.more(60)
                for client in flaky:
                    client.cut()
                for client in flaky:
                    client.wait_session(turn + 1)
        account([*steady, *flaky], load)
        assert not [client for client in steady if client.all("disconnect")]
