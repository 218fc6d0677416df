"""What the server API stands on, put together."""

from __future__ import annotations

from tests.blueprints.conftest import Place


def test_control_messages_find_their_way(place: Place) -> None:
    api = place.server.api
    assert api.calls.boot == api.presence.boot == place.server.token
    assert api.on_control("presence", "agent:a")
    assert api.on_control("answer", '{"id":"x","from":"y","value":1}')
    assert not api.on_control("fenced", "sid")
    assert api.calls.ask("room", {"room": "agent:a"}).values == [{}]
