"""Many rooms in one request, with the real clients on two workers: answers, replay and live events of each room."""

from __future__ import annotations

import pytest

from tests.clients.fleet import Fleet, fresh, publish, thoughts
from tests.harness import Server

pytestmark = [pytest.mark.cluster, pytest.mark.node]

ROOMS = 100


@pytest.mark.parametrize("kind", ["npm", "python"])
@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_a_hundred_rooms_in_one_request(cluster: Server, fleet: Fleet, kind: str, transport: str) -> None:
    agents = [fresh("many") for _ in range(ROOMS)]
    before = {agent: publish(cluster, agent, 2) for agent in agents[:5]}
    clients = fleet.many(cluster, kind, transport, 4)
    for client in clients:
        answer = client.request("subscribe-agent", [{"id": agent, "since": 0} for agent in agents])
        assert [(one["ok"], one["room"]) for one in answer["rooms"]] == [(True, f"agent:{name}") for name in agents]
        assert [one["missed"] for one in answer["rooms"]] == [2] * 5 + [0] * (ROOMS - 5)
    live = {agent: publish(cluster, agent, 1, start=2) for agent in (agents[0], agents[-1])}
    for client in clients:
        for agent in (agents[0], agents[-1]):
            client.wait_ids(before.get(agent, []) + live[agent])
    left = clients[0].request("unsubscribe-agent", [*agents[1:], "never"])
    assert [one["ok"] for one in left["rooms"]] == [True] * (ROOMS - 1) + [False]


def test_all_rooms_of_a_list_are_resumed_on_the_other_worker(cluster: Server, fleet: Fleet) -> None:
    agents = [fresh("resumed") for _ in range(20)]
    client = fleet.npm(cluster)
    assert all(one["ok"] for one in client.request("subscribe-agent", agents)["rooms"])
    assert all(one["ok"] for one in client.request("unsubscribe-agent", agents[10:])["rooms"])
    client.drop()
    for agent in agents:
        publish(cluster, agent, 1)
    session = client.wait_session(2)
    assert session["recovered"] is True
    assert session["rooms"].keys() == {f"agent:{agent}" for agent in agents[:10]}
    client.wait(lambda: all(len(thoughts(client, agent)) == 1 for agent in agents[:10]), "what was missed")
    assert not any(thoughts(client, agent) for agent in agents[10:])
