"""`ack-event` and `nack-event`: what clients say about critical events."""

from __future__ import annotations

from typing import Any

from wsapp import schemas
from wsapp.errors import ErrorCode, RequestError
from wsapp.runtime.event_blueprint import Call, EventBlueprint

acknowledgements = EventBlueprint("wsapp_acknowledgements", __name__)


@acknowledgements.event("ack-event")
def ack_event(call: Call, payload: Any) -> dict[str, object]:
    """`id` or `{id}`: the user has the critical event, on any of the user's connections; again is fine."""
    asked = schemas.load_request("ack-event", payload)
    if not call.hub.critical.ack(call.session.user_id, asked.id):
        raise _unknown(asked.id)
    return {"id": asked.id}


@acknowledgements.event("nack-event")
def nack_event(call: Call, payload: Any) -> dict[str, object]:
    """`id` or `{id}`: the user wants it again, soon; told `{id, state: pending | dead, attempts}`."""
    asked = schemas.load_request("nack-event", payload)
    outcome = call.hub.critical.nack(call.session.user_id, asked.id)
    if outcome is None:
        raise _unknown(asked.id)
    return {"id": asked.id, "state": str(outcome.state), "attempts": outcome.attempts}


def _unknown(id: str) -> RequestError:
    return RequestError(ErrorCode.NOT_FOUND, f"no critical event {id[:50]!r} waits for this user's answer")
