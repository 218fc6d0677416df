"""A client's own session: metadata, rate, token, where it stands, and what it says about critical events."""

from __future__ import annotations

from typing import Any, Final

from marshmallow import INCLUDE, fields, validate

from wsapp.auth import MAX_TOKEN
from wsapp.core.ports import Fate
from wsapp.core.throttle import MIN_RATE
from wsapp.errors import ErrorCode, RequestError
from wsapp.runtime.event_blueprint import Answer, Call, EventBlueprint
from wsapp.runtime.hub import Hub
from wsapp.schemas import AnyJson, Choice, Name, Number, RequestSchema, Strict, Text, json_body, mapping
from wsapp.settings import MAX_RATE

sessions = EventBlueprint("wsapp_sessions", __name__)

MAX_METADATA: Final = 8192  # bytes of JSON


class MetadataRequest(RequestSchema):
    """An object of at most 8 kB."""

    class Meta:
        unknown = INCLUDE

    def parse(self, payload: object, what: str) -> dict[str, Any]:
        """As `RequestSchema.parse`."""
        metadata = dict(mapping(payload, what))
        json_body(metadata, MAX_METADATA)
        return metadata


class MetadataAnswer(Strict):
    """All of the session's metadata."""

    metadata = fields.Dict(fields.String(), AnyJson(), required=True)


@sessions.event("update-metadata", MetadataRequest(), MetadataAnswer)
def update_metadata(call: Call, metadata: dict[str, Any]) -> Answer:
    """Merge into the session's metadata; null removes a key."""
    return {"metadata": dict(call.hub.connections.update_metadata(call.session.sid, metadata))}


class RateRequest(RequestSchema):
    """Frames per second."""

    rate = Number(MIN_RATE, MAX_RATE, required=True)

    def make(self, given: dict[str, Any]) -> float:
        """The rate alone."""
        return float(given["rate"])


class RateAnswer(Strict):
    """The rate that holds for the user now: at most the server's."""

    rate = fields.Float(required=True)


@sessions.event("set-rate", RateRequest(), RateAnswer)
def set_rate(call: Call, rate: float) -> Answer:
    """Limit the frames per second of the session's user."""
    rate = min(rate, call.hub.admission.rate_of(call.session))
    call.hub.throttler.user(call.session.user_id, rate)
    return {"rate": rate}


class NothingRequest(RequestSchema):
    """Nothing."""

    def parse(self, payload: object, what: str) -> None:
        """As `RequestSchema.parse`; a payload is ignored."""


class StandAnswer(Strict):
    """Where a room and a subscription stand."""

    epoch = fields.String(required=True)
    seq = fields.Integer(required=True, metadata={"description": "the room's newest on this worker"})
    sent = fields.Integer(required=True, metadata={"description": "everything up to it was sent to the client"})


class PositionsAnswer(Strict):
    """Where the session stands in each of its rooms, and the mode of the worker."""

    mode = fields.String(required=True)
    rooms = fields.Dict(fields.String(), fields.Nested(StandAnswer), required=True)


@sessions.event("positions", NothingRequest(), PositionsAnswer)
def positions(call: Call, _request: None) -> Answer:
    """Where the session stands now.  `seq` is the room's newest here; everything up to `sent` has left for this client
    before the answer, so equal ones mean: current."""
    rooms = {name: {"epoch": sub.room.track.epoch, "seq": sub.room.track.seq, "sent": sub.passed()}
             for name, sub in call.session.subs.items()}
    return {"mode": call.hub.mode(), "rooms": rooms}


class TokenRequest(RequestSchema):
    """A newer token of the same user."""

    bare = "token"

    token = Text(required=True, validate=validate.Length(1, MAX_TOKEN))

    def make(self, given: dict[str, Any]) -> str:
        """The token alone."""
        return str(given["token"])


class TokenAnswer(Strict):
    """How long the token holds, the rooms that it does not allow, and those whose `presence` it does not allow."""

    expiresInMs = fields.Integer(required=True)
    lost = fields.List(fields.String(), required=True)
    presenceLost = fields.List(fields.String())


@sessions.event("refresh-token", TokenRequest(), TokenAnswer)
def refresh_token(call: Call, token: str) -> Answer:
    """Continue with another token; rooms that it does not allow are left, each with `unsubscribed`, and of those in
    `presenceLost` no `presence` comes any more."""
    return call.hub.admission.refresh(call.session, token)


class EventRequest(RequestSchema):
    """The id of a critical event."""

    bare = "id"

    id = Name(required=True)

    def make(self, given: dict[str, Any]) -> str:
        """The id alone."""
        return str(given["id"])


class AcknowledgedAnswer(Strict):
    """The user has it."""

    id = fields.String(required=True)


class RefusedAnswer(Strict):
    """The user gets it again; `dead` when it was sent often enough."""

    id = fields.String(required=True)
    state = Choice((str(Fate.PENDING), str(Fate.DEAD)), required=True)
    attempts = fields.Integer(required=True, metadata={"description": "how often it was sent"})


@sessions.event("ack-event", EventRequest(), AcknowledgedAnswer)
def ack_event(call: Call, id: str) -> Answer:
    """The user has the critical event, on any of the user's connections; again is fine."""
    return acknowledgement(call.hub, call.session.user_id, id)


@sessions.event("nack-event", EventRequest(), RefusedAnswer)
def nack_event(call: Call, id: str) -> Answer:
    """The user wants the critical event again, soon."""
    return refusal(call.hub, call.session.user_id, id)


def acknowledgement(hub: Hub, user_id: str, id: str) -> Answer:
    """A user has a critical event.  Raises RequestError (`not_found`) and BrokerUnavailable."""
    if not hub.critical.ack(user_id, id):
        raise _unknown(id)
    return {"id": id}


def refusal(hub: Hub, user_id: str, id: str) -> Answer:
    """A user wants a critical event again.  Raises RequestError (`not_found`) and BrokerUnavailable."""
    outcome = hub.critical.nack(user_id, id)
    if outcome is None:
        raise _unknown(id)
    return {"id": id, "state": str(outcome.state), "attempts": outcome.attempts}


def _unknown(id: str) -> RequestError:
    return RequestError(ErrorCode.NOT_FOUND, f"no critical event {id[:50]!r} waits for this user's answer")
