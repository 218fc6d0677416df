"""A worker whose subscription is silently dead: its canary notices, readiness says so, and the worker mends itself."""

from __future__ import annotations

import time

import pytest

from tests.clients.fleet import Fleet, fresh, publish
from tests.fault.machine.proxy import Proxy
from tests.harness import Server, wait_until
from tests.valkey import Valkey

pytestmark = [pytest.mark.cluster, pytest.mark.node]

SLOW_HEADS = {"WSAPP_HEADS_INTERVAL": "300"}  # healing by heads would hide what is tested here
NOTICED_WITHIN = 5.0 + 1.0  # the second is for a busy machine


def reason(server: Server) -> str:
    return str(server.get("/readyz").json().get("reason"))


def lost(server: Server) -> float:
    return server.metric("wsapp_canary_probes_lost_total")


def test_a_dead_subscription_is_noticed_and_told(fleet: Fleet) -> None:
    """As long as no live connection works, the worker is not ready; every other face of it is fine."""
    agent = fresh("agent")
    with Valkey() as valkey, Proxy(valkey.port) as proxy, Server(1, proxy.url, SLOW_HEADS) as server:
        client = fleet.npm(server)
        client.subscribe("agent", agent)
        assert lost(server) == 0
        proxy.weather.deaf_live = True
        begun = time.monotonic()
        wait_until(lambda: reason(server) == "events do not arrive", "not ready", timeout=20)
        noticed = time.monotonic() - begun
        assert server.get("/healthz").status == 200
        proxy.calm()
        wait_until(server.ready, "ready again", timeout=20)
        client.wait_ids(publish(server, agent, 5))
        assert lost(server) >= 1
        assert noticed < NOTICED_WITHIN


def test_a_worker_mends_its_own_subscription(fleet: Fleet) -> None:
    """Only the connection of now is deaf: a new one helps, and what was lost meanwhile comes in order."""
    agent = fresh("agent")
    with Valkey() as valkey, Proxy(valkey.port) as proxy, Server(1, proxy.url, SLOW_HEADS) as server:
        client = fleet.npm(server)
        client.subscribe("agent", agent)
        before = publish_directly(valkey, agent, 3)
        client.wait_ids(before)
        assert proxy.condemn()
        client.wait_ids(before + publish_directly(valkey, agent, 5), timeout=20)
        wait_until(server.ready, "ready again")
        assert lost(server) == 1
        assert not client.all("disconnect") and not client.all("resync")


def test_a_lost_last_message_is_found_without_the_canary(fleet: Fleet) -> None:
    agent = fresh("agent")
    quiet = {"WSAPP_CANARY": "0", "WSAPP_HEADS_INTERVAL": "0.5"}
    with Valkey() as valkey, Proxy(valkey.port) as proxy, Server(1, proxy.url, quiet) as server:
        client, sdk = fleet.npm(server), fleet.npm(server, auth={"wsapp": 1})
        for one in (client, sdk):
            one.subscribe("agent", agent)
        proxy.weather.deaf_live = True
        sent = publish_directly(valkey, agent, 5)
        for one in (client, sdk):
            one.wait_ids(sent, timeout=20)
        assert server.ready()


def test_the_beacon_tells_sdk_clients_where_their_rooms_stand(fleet: Fleet) -> None:
    agent = fresh("agent")
    with Server(1, env={"WSAPP_BEACON": "0.3"}) as server:
        plain, sdk = fleet.npm(server), fleet.npm(server, auth={"wsapp": 1})
        epochs = [one.subscribe("agent", agent)["epoch"] for one in (plain, sdk)]
        publish(server, agent, 3)
        sdk.wait(lambda: any(seen.args[0]["rooms"][f"agent:{agent}"]["seq"] == 3 for seen in sdk.all("beacon")),
                 "the head in a beacon")
        assert epochs[0] == epochs[1]
        assert not plain.all("beacon")


def publish_directly(valkey: Valkey, agent: str, count: int) -> list[str]:
    """Past the proxy."""
    from wsapp import Emitter

    with Emitter(valkey.url, timeout=5.0) as emitter:
        return [emitter.broadcast_agent_thought({"agentId": agent, "thought": f"thought {number}"}).id
                for number in range(count)]
