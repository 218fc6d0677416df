"""What clients ask and publishers say: checked by its schema, or refused with PayloadError; what was taken can be
recorded and sent."""

from __future__ import annotations

from typing import Any

from wsapp.blueprints.sessions import sessions
from wsapp.blueprints.subscriptions import subscriptions
from wsapp.core.events import Placed, Profile, parse_record, publish_draft, strict_loads
from wsapp.errors import PayloadError
from wsapp.schemas import project_draft, task_draft, thought_draft

EVENTS = ("subscribe-agent", "unsubscribe-task", "update-metadata", "set-rate", "history", "ack-event", "nack-event",
          "refresh-token", "subscribe-project", "thought", "task", "project")

REQUESTS = {**subscriptions.events, **sessions.events}

SEEDS = [
    b'\x00"coder"', b'\x00{"id":"a","since":3,"presence":true}', b'\x00{"id":"a","since":{"epoch":"e","seq":1}}',
    b'\x02{"a":null}', b'\x03{"rate":0.5}', b'\x04{"room":"agent:a","since":1,"limit":10}', b'\x05{"id":"x"}',
    b'\x07{"token":"t"}', b'\x09{"agentId":"a","thought":"t","timestamp":1,"taskId":"x","delta":true}',
    b'\x0a{"taskId":"t","status":"pending","progress":12.5}', b'\x0b["p","name",{"a":[1,"\\u2028"]}]',
    b'\x09{"agentId":"a","thought":"\\ud800"}', b'\x0b["p","a\\tb",1e308]', b"\x0012", b"\x00null", b"\x041e400",
    b'\x0a{"task_id":"t","status":"completed","progress":1e999}', b'\x03{"rate":true}', b'\x09{"agentId":1}',
]


def check(data: bytes) -> None:
    if not data:
        return
    event = EVENTS[data[0] % len(EVENTS)]
    try:
        payload: Any = strict_loads(data[1:].decode())
    except (ValueError, RecursionError):
        return
    try:
        draft = _draft(event, payload)
    except PayloadError as error:
        assert error.told()["message"]
        return
    if draft is not None:
        places = tuple(Placed(room, 1, "e") for room in draft.rooms)
        publication = publish_draft(draft, places)
        again = parse_record(publication.record())
        assert again.record() == publication.record()
        for profile in Profile:
            strict_loads(again.text(profile, draft.rooms[0])[2:])


def _draft(event: str, payload: Any) -> Any:
    if event == "thought":
        return thought_draft(payload, now_ms=1)
    if event == "task":
        return task_draft(payload, now_ms=1)
    if event == "project":
        given = payload if isinstance(payload, list) and len(payload) == 3 else ["p", payload, payload]
        return project_draft(given[0], given[1], given[2], now_ms=1)
    schema = REQUESTS[event].schema
    assert schema is not None
    schema.parse(payload, event)
    return None
