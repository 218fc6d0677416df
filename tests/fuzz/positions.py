"""Where a client says it stands: CONNECT's auth, `since` of a subscription, ids of an event stream."""

from __future__ import annotations

from wsapp.blueprints.subscriptions import SubscribeRequest
from wsapp.core.events import Position, strict_loads
from wsapp.errors import PayloadError
from wsapp.runtime.lifecycle import SESSION_ID, read_hello
from wsapp.runtime.stream import read_id
from wsapp.schemas import parse_room

ROOMS = ["agent:a", "task:t,u", "project:p"]

SEEDS = [
    b'\x00{"sessionId":"aaaaaaaaaaaaaaaaaaaaaaaa","wsapp":1,"positions":{"agent:a":{"epoch":"e","seq":3}}}',
    b'\x00{"pid":"aaaaaaaaaaaaaaaaaaaaaaaa","offset":"x","recovery":"offset"}', b'\x00{"positions":[1]}',
    b'\x00{"positions":{"a":{"epoch":1,"seq":true}},"sessionId":7}',
    b'\x00{"sessionId":"aaaaaaaaaaaaaaaaaaaaaaaa","positions":{"agent:a":{"epoch":"x","seq":18446744073709551616}}}',
    b'\x00{"sessionId":"aaaaaaaaaaaaaaaaaaaaaaaa","positions":{"agent:a":{"epoch":"x","seq":true}}}',
    b"\x01{\"epoch\":\"e\",\"seq\":1}", b"\x01-1",
    b"\x0117976931348623157e292", b"\x02agent:a@e:7", b"\x020@e:7,1@f:9", b"\x02agent%3Aa:1@e,2", b"\x02x@\xff",
    b"\x03agent:a", b"\x03agent:\x00",
]


def check(data: bytes) -> None:
    if not data:
        return
    kind, text = data[0] % 4, data[1:].decode("utf-8", "replace")
    if kind > 1:
        try:
            found = dict(read_id(text, ROOMS)) if kind == 2 else parse_room(text)
        except PayloadError:
            return
        assert kind == 3 or set(found) <= set(ROOMS)
        return
    try:
        value = strict_loads(text)
    except (ValueError, RecursionError):
        return
    if kind == 0:
        try:
            hello = read_hello(value if isinstance(value, dict) else None)
        except PayloadError:
            return
        assert hello.session_id is None or SESSION_ID.fullmatch(hello.session_id)
        assert all(isinstance(place, Position) and 0 <= place.seq < 2**53 for place in hello.positions.values())
        return
    try:
        asked = SubscribeRequest("agent").parse({"id": "a", "since": value}, "subscribe-agent")
    except PayloadError:
        return
    assert asked.since is None or 0 <= asked.since.seq < 2**63
