"""The operator's part, on the memory backend."""

from __future__ import annotations

import time

import pytest

from tests.blueprints.api.client import ApiClient
from tests.blueprints.conftest import Place
from wsapp.runtime.operations import session_name


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


def test_revoking(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    api = ApiClient(place)
    client = place.client()
    assert client.ask("subscribe-agent", "a")["ok"]
    [session] = place.server.connections.sessions()
    now = time.time()
    told = api.post("/revoke", {"userId": "ann", "ttl": 60}).get_json()
    assert 59_000 < told["until"] - now * 1000 < 70_000
    assert api.post("/revoke", {"jti": "j", "until": 5}).get_json()["until"] > now * 1000, "long enough to be heard"
    default = api.post("/revoke", {"jti": "j"}).get_json()["until"]
    assert default > (now + place.server.settings.revocation_ttl - 1) * 1000
    assert "by key 'all'" in caplog.text
    assert place.server.connections.get_connection_count() == 1
    public = session_name(session.id)
    assert api.post("/revoke", {"session": public}).get_json()["missing"] == []
    assert client.until('42["session-closed"') == '42["session-closed",{"code":4501,"reason":"token_revoked"}]'
    assert session.id not in caplog.text


@pytest.mark.parametrize("body", [{}, {"jti": "a", "userId": "b"}, {"jti": "a", "until": 1, "ttl": 1}, {"jti": ""},
                                  {"jti": "a", "ttl": 0}, {"jti": "a", "until": -1}, {"sid": "a"}])
def test_wrong_revocations(place: Place, body: dict[str, object]) -> None:
    assert ApiClient(place).post("/revoke", body).status_code == 422


def test_revoking_needs_the_scope(place: Place) -> None:
    assert ApiClient(place, "publish", "read").post("/revoke", {"jti": "a"}).status_code == 403
