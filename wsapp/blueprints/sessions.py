"""A client's own session: metadata and rate."""

from __future__ import annotations

from typing import Any

from wsapp import schemas
from wsapp.runtime.event_blueprint import Call, EventBlueprint

sessions = EventBlueprint("wsapp_sessions", __name__)


@sessions.event("update-metadata")
def update_metadata(call: Call, payload: Any) -> dict[str, object]:
    """An object, merged into the session's metadata (null removes a key); told `{metadata}`."""
    asked = schemas.load_request("update-metadata", payload)
    assert isinstance(asked, schemas.UpdateMetadata)
    return {"metadata": dict(call.hub.connections.update_metadata(call.session.sid, asked.metadata))}


@sessions.event("set-rate")
def set_rate(call: Call, payload: Any) -> dict[str, object]:
    """`{rate}` in events per second, at most the server's; told the `{rate}` that now holds for the user."""
    asked = schemas.load_request("set-rate", payload)
    assert isinstance(asked, schemas.SetRate)
    rate = min(asked.rate, call.hub.admission.rate_of(call.session))
    call.hub.throttler.user(call.session.user_id, rate)
    return {"rate": rate}
