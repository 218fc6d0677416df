"""A client's own session."""

from __future__ import annotations

import pytest

from tests.blueprints.conftest import Place


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
