"""A client's own session: metadata, rate, token (with real ones in tests/cluster/test_auth.py), critical events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.blueprints.conftest import Place
from tests.polling import PollingClient
from wsapp.blueprints.sessions import sessions
from wsapp.core.ports import Retry
from wsapp.errors import PayloadError


def parse(event: str, payload: object) -> Any:
    schema = sessions.events[event].schema
    assert schema is not None
    return schema.parse(payload, event)


@pytest.mark.parametrize(("event", "payload", "request_"), [
    ("update-metadata", {"a": [1]}, {"a": [1]}), ("set-rate", {"rate": 2}, 2.0), ("ack-event", "0a", "0a"),
    ("nack-event", {"id": "0a"}, "0a"), ("refresh-token", "abc", "abc"), ("refresh-token", {"token": "abc"}, "abc")])
def test_what_a_handler_gets(event: str, payload: object, request_: object) -> None:
    assert parse(event, payload) == request_


@pytest.mark.parametrize(("event", "payload", "field"), [
    ("update-metadata", "x", "payload"), ("update-metadata", {"x": "y" * 9000}, "data"), ("set-rate", 5, "payload"),
    ("set-rate", {"rate": 0}, "rate"), ("set-rate", {"rate": 5e-324}, "rate"), ("set-rate", {"rate": 1e9}, "rate"),
    ("set-rate", {"rate": float("inf")}, "rate"), ("set-rate", {"rate": float("nan")}, "rate"),
    ("ack-event", {}, "id"), ("nack-event", None, "id"), ("refresh-token", "", "token"),
    ("refresh-token", {"token": 5}, "token"), ("refresh-token", "x" * 9000, "token")])
def test_a_wrong_field_is_named(event: str, payload: object, field: str) -> None:
    with pytest.raises(PayloadError) as caught:
        parse(event, payload)
    assert set(caught.value.fields) == {field}


def test_metadata_is_merged_and_null_removes(place: Place) -> None:
    client = place.client()
    assert client.ask("update-metadata", {"tab": 1, "name": "x"}) == {"ok": True, "metadata": {"tab": 1, "name": "x"}}
    assert client.ask("update-metadata", {"tab": None, "more": [1]})["metadata"] == {"name": "x", "more": [1]}
    [connection] = place.server.get_active_connections()
    assert connection.metadata == {"name": "x", "more": [1]}


@pytest.mark.parametrize("payload", [None, [], "x", {"big": "x" * 9000}])
def test_wrong_metadata_is_refused(place: Place, payload: object) -> None:
    assert place.client().ask("update-metadata", payload)["error"]["code"] == "bad_payload"


def test_a_rate_is_at_most_the_servers(place: Place) -> None:
    client = place.client()
    assert client.ask("set-rate", {"rate": 2.5}) == {"ok": True, "rate": 2.5}
    [connection] = place.server.get_active_connections()
    assert place.server.throttler.user(connection.user_id).rate == 2.5
    assert client.ask("set-rate", {"rate": 5000}) == {"ok": True, "rate": 1000.0}


@pytest.mark.parametrize("rate", [0, -1, "5", True, None, 1e9])
def test_a_wrong_rate_is_refused(place: Place, rate: object) -> None:
    assert place.client().ask("set-rate", {"rate": rate})["error"]["code"] == "bad_payload"


def test_a_session_is_told_where_it_stands(place: Place) -> None:
    client = place.client()
    assert client.ask("positions") == {"ok": True, "mode": "normal", "rooms": {}}
    joined = client.ask("subscribe-agent", "a")
    place.server.broadcast_agent_thought({"agentId": "a", "thought": "x"})
    [thought] = client.of("agent-thought")
    [stands] = client.ask("positions")["rooms"].values()
    assert stands == {"epoch": stands["epoch"], "seq": 1, "sent": 1}
    assert (joined["seq"], thought["seq"]) == (0, 1)


def test_a_server_without_tokens_says_so(place: Place) -> None:
    told = place.client().ask("refresh-token", {"token": "x"})
    assert (told["ok"], told["error"]["code"]) == (False, "bad_request")


def test_a_wrong_payload(place: Place) -> None:
    for payload in (None, 7, {}, {"token": ""}, {"token": "x", "more": 1}):
        assert place.client().ask("refresh-token", payload)["error"]["code"] == "bad_payload"


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
