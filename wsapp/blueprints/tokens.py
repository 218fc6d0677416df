"""Tokens on a live connection."""

from __future__ import annotations

from typing import Any

from wsapp import schemas
from wsapp.runtime.event_blueprint import Call, EventBlueprint

tokens = EventBlueprint("wsapp_tokens", __name__)


@tokens.event("refresh-token")
def refresh_token(call: Call, payload: Any) -> dict[str, object]:
    """A token, or `{token}`, of the same user; told `{expiresInMs, lost}`: the rooms that it does not allow any more
    were left, and each is told by `unsubscribed {room, reason}`."""
    asked = schemas.load_request("refresh-token", payload)
    assert isinstance(asked, schemas.RefreshToken)
    return call.hub.admission.refresh(call.session, asked.token)
