"""A client's own session: metadata, rate and where it stands."""

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


@sessions.event("positions")
def positions(call: Call, _payload: Any) -> dict[str, object]:
    """Where the session stands now; told `{mode, rooms: {room: {epoch, seq, sent}}}`.  `seq` is the room's newest here;
    everything up to `sent` has left for this client before the answer, so equal ones mean: current."""
    rooms = {name: {"epoch": sub.room.track.epoch, "seq": sub.room.track.seq, "sent": sub.passed()}
             for name, sub in call.session.subs.items()}
    return {"mode": call.hub.mode(), "rooms": rooms}
