"""Tokens on a live connection."""

from __future__ import annotations

from typing import Any

from wsapp import schemas
from wsapp.runtime.event_blueprint import Call, EventBlueprint

tokens = EventBlueprint("wsapp_tokens", __name__)


@tokens.event("refresh-token")
def refresh_token(call: Call, payload: Any) -> dict[str, object]:
    """A token, or `{token}`, of the same user; the answer is `{expiresInMs, lost, presenceLost?}`: rooms
    that it does not allow any more were left, each with `unsubscribed {room, reason}`, and of those in `presenceLost`
    no `presence` comes any more."""
    asked = schemas.load_request("refresh-token", payload)
    assert isinstance(asked, schemas.RefreshToken)
    return call.hub.admission.refresh(call.session, asked.token)
