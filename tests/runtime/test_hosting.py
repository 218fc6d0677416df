"""The decorators of the host application."""

from __future__ import annotations

import pytest

from tests.blueprints.conftest import Place
from wsapp.core.session import Session


def test_hooks_are_called_and_given_back(place: Place) -> None:
    calls: list[str] = []

    def called(session: Session, *_: object) -> None:
        calls.append(type(session).__name__)
    assert place.server.on_connect(called) is called
    assert place.server.on_subscribe(called) is called
    client = place.client()
    assert client.ask("subscribe-agent", "a")["ok"] is True
    assert calls == ["Session", "Session"]


def test_identify_and_authorizer(place: Place) -> None:
    place.server.identify(lambda _auth, _environ: "ann")
    asked: list[tuple[str, str, str]] = []

    @place.server.authorizer
    def may(session: Session, action: str, room: str) -> bool:
        asked.append((session.user_id, action, room))
        return room == "agent:a"
    client = place.client()
    assert client.ask("subscribe-agent", "a")["ok"] is True
    assert client.ask("subscribe-agent", "b")["error"]["code"] == "forbidden"
    assert asked == [("ann", "read", "agent:a"), ("ann", "read", "agent:b")]


def test_revoke(place: Place) -> None:
    place.server.identify(lambda _auth, _environ: "ann")
    place.client()
    assert len(place.server.connections.user_sessions("ann")) == 1
    place.server.revoke(user="ann")
    assert place.server.get_metrics()["worker"]["tokensRevoked"] == 1
    with pytest.raises(ValueError, match="one of"):
        place.server.revoke(jti="a", user="b")
