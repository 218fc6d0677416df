"""Two workers and no balancer: every transport of both stock clients, every time."""

from __future__ import annotations

import pytest

from tests.clients.fleet import Fleet, fresh, publish, spread
from tests.harness import Server, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.node]

CONNECTIONS = 120


@pytest.mark.parametrize("transport", ["polling", "upgrade", "websocket"])
@pytest.mark.parametrize("kind", ["npm", "python"])
def test_all_connections_work(cluster: Server, fleet: Fleet, kind: str, transport: str) -> None:
    agent = fresh("agent")
    clients = fleet.many(cluster, kind, transport, CONNECTIONS)
    acks = fleet.each(clients, lambda client: client.subscribe("agent", agent))
    assert [ack["seq"] for ack in acks] == [0] * CONNECTIONS
    ids = publish(cluster, agent, 2)
    for client in clients:
        client.wait_ids(ids)
        assert client.ids() == ids
        assert not client.all("disconnect")
        assert not client.all("connect_error")
    final = "polling" if transport == "polling" else "websocket"
    for client in clients:
        wait_until(lambda: client.transport() == final, f"{final} in the end")  # noqa: B023 - used at once
    if final == "websocket":
        held = spread(clients, cluster)
        assert set(held) == set(cluster.worker_pids()), f"both workers serve: {held}"
