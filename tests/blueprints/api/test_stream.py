"""The stream's request, on the memory backend; what it tells is in tests/cluster/test_stream.py."""

from __future__ import annotations

import pytest

from tests.blueprints.conftest import Place


@pytest.mark.parametrize(("query", "headers", "status"), [
    ("", {}, 422), ("?rooms=,", {}, 422), ("?rooms=x", {}, 422), ("?rooms=agent:a,agent:b,agent:c,agent:d", {}, 422),
    ("?rooms=agent:a&since=agent:b:1", {}, 422), ("?rooms=agent:a&since=agent:a:-1", {}, 422),
    ("?rooms=agent:a", {"Last-Event-ID": "x"}, 422), ("?rooms=agent:a", {"Origin": "https://evil.example"}, 403)])
def test_refused(place: Place, query: str, headers: dict[str, str], status: int) -> None:
    reply = place.app.test_client().get(f"/api/v1/stream{query}", headers=headers)
    assert (reply.status_code, reply.content_type) == (status, "application/problem+json")
    assert place.server.connections.get_connection_count() == 0


def test_the_end_of_the_answer_is_the_end_of_the_session(place: Place) -> None:
    for room in ("agent:a:b", "agent:c,d"):
        reply = place.app.test_client().get("/api/v1/stream", query_string={"room": room, "since": ""})
        assert next(reply.response).startswith(b"retry: ")  # type: ignore[call-overload]
        assert place.server.connections.get_connection_count() == 1
        reply.close()
        assert place.server.connections.get_connection_count() == 0


def test_a_hook_turns_away(place: Place) -> None:
    @place.server.on_subscribe
    def refuse(_session: object, room: str) -> bool:
        return room != "agent:secret"

    reply = place.app.test_client().get("/api/v1/stream?rooms=agent:a,agent:secret")
    assert reply.status_code == 403
    assert place.server.connections.get_connection_count() == 0

    @place.server.on_connect
    def turn_away(*_: object) -> None:
        raise ConnectionRefusedError("not today")

    reply = place.app.test_client().get("/api/v1/stream?rooms=agent:a")
    assert (reply.status_code, reply.get_json()["detail"]) == (403, "not today")


def test_head_opens_nothing(place: Place) -> None:
    assert place.app.test_client().head("/api/v1/stream?rooms=agent:a").status_code == 200
    assert place.server.connections.total == 0
