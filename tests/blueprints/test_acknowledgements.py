"""What clients say about critical events."""

from __future__ import annotations

import json

import pytest

from tests.blueprints.conftest import Place
from tests.polling import PollingClient
from wsapp.core.ports import Retry


def alarm(place: Place, client: PollingClient) -> str:
    """A critical thought, published and received; its id."""
    receipt = place.server.broadcast_agent_thought({"agentId": "a", "thought": "!"}, critical=True)
    assert json.loads(client.until('42["agent-thought"')[2:])[1]["id"] == receipt.id
    return receipt.id


def state(place: Place, id: str) -> list[tuple[str, int]]:
    users = place.server.delivery_status(id)["users"]
    return [(at["state"], at["attempts"]) for at in users.values()]


@pytest.fixture
def watcher(place: Place) -> PollingClient:
    client = place.client()
    assert client.ask("subscribe-agent", "a")["ok"]
    return client


def test_an_event_is_acknowledged_by_its_id(place: Place, watcher: PollingClient) -> None:
    id = alarm(place, watcher)
    assert state(place, id) == [("pending", 1)]
    assert watcher.ask("ack-event", {"id": id}) == {"ok": True, "id": id}
    assert watcher.ask("ack-event", id) == {"ok": True, "id": id}
    assert state(place, id) == [("acked", 1)]


def test_a_refused_event_comes_again(place: Place, watcher: PollingClient) -> None:
    id = alarm(place, watcher)
    assert watcher.ask("nack-event", id) == {"ok": True, "id": id, "state": "pending", "attempts": 1}
    assert json.loads(watcher.until('42["agent-thought"')[2:])[1]["id"] == id
    watcher.ask("ack-event", id)
    assert watcher.ask("nack-event", id)["error"]["code"] == "not_found"


@pytest.mark.parametrize("verb", ["ack-event", "nack-event"])
def test_only_what_is_critical_and_the_users_own_is_answered(place: Place, watcher: PollingClient, verb: str) -> None:
    critical = alarm(place, watcher)
    ordinary = place.server.broadcast_agent_thought({"agentId": "a", "thought": "x"}).id
    for client, id in ((watcher, ordinary), (watcher, "nonsense"), (place.client(), critical)):
        assert client.ask(verb, id)["error"]["code"] == "not_found"
    for payload in (None, "", {}, {"id": ""}, []):
        assert watcher.ask(verb, payload)["error"]["code"] == "bad_payload"


def test_the_publisher_waits_and_the_operator_requeues(place: Place, watcher: PollingClient) -> None:
    id = alarm(place, watcher)
    (user,) = place.server.delivery_status(id)["users"]
    assert not place.server.wait_for_ack(id, 0.05)
    place.server.critical_store.retry([Retry(user, id, 0.0, 0)])
    assert [letter["id"] for letter in place.server.dead_letters()] == [id]
    assert place.server.requeue_dead_letter(id, user)
    assert json.loads(watcher.until('42["agent-thought"')[2:])[1]["id"] == id
    watcher.ask("ack-event", id)
    assert place.server.wait_for_ack(id, 5.0)
    assert place.server.dead_letters() == []
