"""The ledger in a real worker: its account and the client's own add up to the same."""

from __future__ import annotations

import pytest

from tests.clients.fleet import Fleet, fresh, publish
from tests.harness import Server

pytestmark = [pytest.mark.cluster, pytest.mark.node]


def test_with_the_ledger_on_everything_still_works(fleet: Fleet) -> None:
    """Throttled and not, each profile: what is over the rate is batched, nothing is lost, order is kept."""
    agent = fresh("agent")
    with Server(1, env={"WSAPP_LEDGER": "on", "MAX_EVENTS_PER_SEC": "20"}) as server:
        clients = [fleet.npm(server), fleet.npm(server, auth={"wsapp": 1}), fleet.python(server)]
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        ids = publish(server, agent, 60)
        for client in clients:
            client.wait_ids(ids)
        clients[0].drop()
        clients[0].wait_session(2)
        more = publish(server, agent, 10, 60)
        for client in clients:
            client.wait_ids(ids + more)
        assert "Traceback" not in server.log_tail(1000)
