"""The operator's part, on the memory backend."""

from __future__ import annotations

from tests.blueprints.api_client import ApiClient
from tests.blueprints.conftest import Place


def test_connections_and_sessions_tell_no_secret(place: Place) -> None:
    api = ApiClient(place)
    client = place.client()
    assert client.ask("subscribe-agent", "a")["ok"]
    [session] = place.server.connections.sessions()
    for what in ("connections", "sessions"):
        reply = api.get(f"/{what}?room=agent:a&user={session.user_id}")
        [one] = reply.get_json()[what]
        assert (one["sid"], one["userId"]) == (session.sid, session.user_id)
        assert session.id not in reply.text, "who has the session id can resume the session"
        assert api.get(f"/{what}?user=nobody").get_json()[what] == []


def test_throwing_out_leaves_nothing_to_resume(place: Place) -> None:
    api = ApiClient(place)
    client = place.client()
    assert client.ask("subscribe-agent", "a")["ok"]
    [session] = place.server.connections.sessions()
    told = api.post("/disconnect", {"userId": session.user_id, "reason": "enough"}).get_json()
    assert told == {"disconnected": 1, "missing": []}
    assert client.until('42["session-closed"') == '42["session-closed",{"code":4502,"reason":"enough"}]'
    assert client.next() == "41"
    assert place.server.connections.handle_reconnection(session.id, "again") is None


def test_stats(place: Place) -> None:
    told = ApiClient(place).get("/stats").get_json()
    assert told["mode"] == "normal"
    assert told["cluster"]["workers"] == 1
