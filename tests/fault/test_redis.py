"""Redis goes away in every way it can; watchers are served, publications wait, and nobody is left in the dark."""

from __future__ import annotations

import pytest
import redis

from tests.clients.fleet import Fleet, fresh, publish, thoughts
from tests.fault.load import Load, account
from tests.harness import Server, wait_until
from tests.valkey import Valkey

pytestmark = [pytest.mark.cluster, pytest.mark.node]

RATE = {"MAX_EVENTS_PER_SEC": "1000", "WSAPP_CATCH_UP_LIMIT": "0"}
HOST = "tests.apps.host:app"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def settled(server: Server, agent: str, last: str) -> None:
    """Ready again, and what was queued is in the history."""
    wait_until(server.ready, "ready again")
    wait_until(lambda: last in thoughts_kept(server, agent), "the outbox is flushed")


def thoughts_kept(server: Server, agent: str) -> str:
    """The history of a room as the watchers of another server would read it, raw."""
    with redis.Redis.from_url(server.redis_url, socket_timeout=5) as client:
        keys = [key for key in client.scan_iter(f"*agent:{agent}*") if client.type(key) == b"stream"]
        return "".join(repr(client.xrange(key)) for key in keys)


def test_hung_redis_blocks_nobody(fleet: Fleet) -> None:
    """SIGSTOP: local watchers get what their worker publishes while it hangs, and it is recorded afterwards."""
    agent = fresh("agent")
    with Valkey() as valkey, Server(1, valkey.url, RATE, HOST) as server:
        clients = [fleet.npm(server), fleet.python(server)]
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        with Load(server, agent, view=True) as load:
            load.more(20)
            valkey.stop_process()
            load.more(60)
            for client in clients:
                client.wait_ids(load.ids[:60])
            valkey.cont()
            load.more(20)
        account(clients, load)
        assert load.statuses >= {"accepted", "queued"}
        assert load.slowest < 1, "no call blocks longer than its timeout, a quarter of a second"
        settled(server, agent, load.ids[-1])


@pytest.mark.parametrize("kind", ["npm", "python"])
def test_killed_redis_with_its_data_loses_nothing(fleet: Fleet, kind: str) -> None:
    """Two servers: what one published into its outbox, the watchers of the other get after the return."""
    agent = fresh("agent")
    with Valkey(*DURABLE) as valkey, Server(1, valkey.url, RATE, HOST) as here, \
            Server(1, valkey.url, RATE) as there:
        clients = [fleet.open(here, kind), fleet.open(there, kind)]
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        with Load(here, agent, view=True) as load:
            load.more(30)
            valkey.kill()
            load.more(60)
            clients[0].wait_ids(load.ids[:80])
            valkey.restart()
            wait_until(here.ready, "ready again")
            load.more(30)
        account(clients, load)
        for client in clients:
            numbers = [int(text.split()[1]) for text in thoughts(client, agent)]
            assert numbers == list(range(len(load.ids))), "each once, in order"


@pytest.mark.parametrize("way", ["flushed", "restarted empty"])
def test_lost_data_is_told(fleet: Fleet, way: str) -> None:
    """A new epoch: every watcher of the room gets `resync`, and the room goes on."""
    agent = fresh("agent")
    with Valkey() as valkey, Server(2, valkey.url, RATE) as server:
        clients = [*fleet.many(server, "npm", "websocket", 4), *fleet.many(server, "python", "websocket", 2)]
        epochs = {ack["epoch"] for ack in fleet.each(clients, lambda client: client.subscribe("agent", agent))}
        before = publish(server, agent, 10)
        for client in clients:
            client.wait_ids(before)
        if way == "flushed":
            with redis.Redis.from_url(valkey.url) as direct:
                direct.flushall()
        else:
            valkey.kill()
            valkey.restart()
            wait_until(server.ready, "ready again")
        after = publish(server, agent, 10, 10)
        for client in clients:
            client.wait_for("resync")
            client.wait_ids(before + after)
        late = fleet.npm(server)
        assert late.subscribe("agent", agent)["epoch"] not in epochs


@pytest.mark.parametrize("command", [("CLIENT", "KILL", "TYPE", "pubsub"), ("CLIENT", "KILL", "TYPE", "normal"),
                                     ("SCRIPT", "FLUSH")])
def test_cut_connections_and_flushed_scripts_lose_nothing(fleet: Fleet, command: tuple[str, ...]) -> None:
    agent = fresh("agent")
    with Valkey() as valkey, Server(2, valkey.url, RATE) as server:
        clients = [*fleet.many(server, "npm", "websocket", 6), *fleet.many(server, "python", "websocket", 2)]
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        with Load(server, agent) as load, redis.Redis.from_url(valkey.url) as direct:
            for _ in range(3):
                load.more(60)
                direct.execute_command(*command)
            load.more(60)
        account(clients, load)
        assert not [client for client in clients if client.all("disconnect")]
