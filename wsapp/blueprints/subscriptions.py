"""Rooms: subscribing, with what was missed since a position, leaving, and reading history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from typing import Any, Final

from marshmallow import fields

from wsapp.core.events import KINDS, JsonText, Position, Publication, dumps_spliced
from wsapp.core.ports import HistoryPage, HistoryQuery
from wsapp.errors import BrokerUnavailable, ErrorCode, PayloadError, RequestError, WsappError
from wsapp.runtime.event_blueprint import Answer, Call, EventBlueprint
from wsapp.runtime.hub import Hub
from wsapp.runtime.recovery import Recovery, recover
from wsapp.schemas import MAX_MS, AnyJson, Flag, Name, Number, RequestSchema, RoomId, RoomName, Since, Strict

subscriptions = EventBlueprint("wsapp_subscriptions", __name__)

MAX_HISTORY: Final = 1000  # publications of one page
MAX_PAGE: Final = 262_144  # bytes of their data, unless the first alone has more


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A room to join.  `since` is where the client stands, None when it wants nothing from before; `presence`: it
    wants to know who else is there."""

    room: str
    since: Position | None = None
    presence: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """A page of a room's history: forwards after `since`, only up to `before` when that is given too, or backwards
    before `before`, from the newest without either; of `epoch` when that is not None."""

    room: str
    since: int | None = None
    before: int | None = None
    limit: int = 100
    epoch: str | None = None


class RoomRequest(RequestSchema):
    """One room of a kind, by its id."""

    bare = "id"

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    id = RoomId(required=True)

    def make(self, given: dict[str, Any]) -> Any:
        """The room's whole name."""
        return f"{self.kind}:{given['id']}"


class SubscribeRequest(RoomRequest):
    """One room of a kind, by its id."""

    since = Since(allow_none=True)
    presence = Flag()

    def make(self, given: dict[str, Any]) -> Subscribe:
        """As `RequestSchema.make`."""
        return Subscribe(super().make(given), given.get("since"), given.get("presence", False))


class HistoryRequest(RequestSchema):
    """A page of a room that the client is in."""

    room = RoomName(required=True)
    since = Number(0, MAX_MS, whole=True, allow_none=True)
    before = Number(0, MAX_MS, whole=True, allow_none=True)
    limit = Number(1, MAX_HISTORY, whole=True)
    epoch = Name(allow_none=True)

    def make(self, given: dict[str, Any]) -> History:
        """As `RequestSchema.make`."""
        return History(**given)


# -- answers


class PositionAnswer(Strict):
    """A place in a room's history."""

    epoch = fields.String(required=True)
    seq = fields.Integer(required=True)


class RoomAnswer(Strict):
    """The room that was left."""

    room = fields.String(required=True)


class MembersAnswer(Strict):
    """Who is in a room; at most 1000 names, all counted."""

    users = fields.Integer(required=True)
    connections = fields.Integer(required=True)
    members = fields.List(fields.String(), required=True)


class SubscribedAnswer(RoomAnswer):
    """Where the room stands; with `since` what was missed, with `presence: true` who is there."""

    epoch = fields.String(required=True)
    seq = fields.Integer(required=True)
    recovered = fields.Boolean()
    missed = fields.Integer()
    skipped = fields.Integer()
    reason = fields.String()
    presence = fields.Nested(MembersAnswer)


class EventAnswer(Strict):
    """One recorded event."""

    event = fields.String(required=True)
    data = AnyJson(required=True, allow_none=True)
    id = fields.String(required=True)
    ts = fields.Integer(required=True, metadata={"description": "time of publication, ms"})
    seq = fields.Integer(required=True, metadata={"description": "its number in the room"})


class HistoryAnswer(Strict):
    """A page of a room's history."""

    room = fields.String(required=True)
    epoch = fields.String(required=True)
    seq = fields.Integer(required=True, metadata={"description": "the newest of the room"})
    first = fields.Integer(required=True, metadata={"description": "the oldest that is kept"})
    events = fields.List(fields.Nested(EventAnswer), required=True)


# -- events


def subscribe(call: Call, requests: Sequence[Subscribe]) -> list[Answer | WsappError]:
    """Put the session into the rooms that it may join, and save it there before the client gets its answer: one
    recovery and one write for all of them.  The answer to each request, or the error that refused it.

    Raises BrokerUnavailable; then the session is in none of the rooms that it was not in before.
    """
    wanted: dict[str, Subscribe] = {}
    refusals = [_refusal(call, request, wanted) for request in requests]
    if not wanted:
        return [error for error in refusals if error is not None]
    recovery = _join(call, wanted)
    present = call.hub.presence.subscribe_all(
        call.session, [room for room, request in wanted.items() if request.presence])
    return [_joined(call, request, recovery, present) if error is None else error
            for request, error in zip(requests, refusals, strict=True)]


def _refusal(call: Call, request: Subscribe, wanted: dict[str, Subscribe]) -> WsappError | None:
    """Add a request to those that are `wanted`, or say why not."""
    if request.room in wanted:
        return PayloadError(f"{request.room} is given twice", {"id": ["is given twice"]})
    session, limit = call.session, call.hub.settings.max_rooms
    if request.room not in session.subs and len(session.subs.keys() | wanted.keys()) >= limit:
        call.hub.metrics.count("roomsRefused")
        return RequestError(ErrorCode.LIMIT, f"a session may be in {limit} rooms (WSAPP_MAX_ROOMS)")
    try:
        call.hub.require_subscribe(session, request.room, presence=request.presence)
    except RequestError as error:
        return error
    wanted[request.room] = request
    return None


def _join(call: Call, wanted: dict[str, Subscribe]) -> Recovery:
    hub, session = call.hub, call.session
    fresh = wanted.keys() - session.subs.keys()
    recovery = recover(session, {room: request.since for room, request in wanted.items()},
                       hub.connections.registry, hub.delivery)
    recovery.pace(hub.delivery.pace, each=True)
    call.after.append(recovery.release)
    session.watching |= {room for room, request in wanted.items() if request.presence}
    call.charge(hub.lifecycle.weight(session))
    try:
        hub.lifecycle.save(session)
    except BrokerUnavailable:
        for room in fresh:
            hub.connections.registry.leave(session, room)  # the connection may be over by now
        raise
    return recovery


def _joined(call: Call, request: Subscribe, recovery: Recovery, present: Mapping[str, Answer]) -> Answer:
    room, at = request.room, recovery.positions[request.room]
    answer: Answer = {"room": room, "epoch": at.epoch, "seq": at.seq}
    if request.since is not None:
        answer |= recovery.outcome(room)
        call.hub.metrics.recovery_refused += not answer["recovered"]
    if request.presence:
        answer["presence"] = present[room]
    return answer


def unsubscribe(call: Call, rooms: Sequence[str]) -> list[Answer | WsappError]:
    """Take the session out of the rooms, and save it once.  The answer to each request, or the error that refused
    it.  Raises BrokerUnavailable."""
    left = [call.hub.connections.leave_room(call.session.sid, room) for room in rooms]
    if any(left):
        call.charge(call.hub.lifecycle.weight(call.session))
        call.hub.lifecycle.save(call.session)
    return [{"room": room} if gone else _not_subscribed(room) for room, gone in zip(rooms, left, strict=True)]


for _kind in KINDS:
    subscriptions.event(f"subscribe-{_kind}", SubscribeRequest(_kind), SubscribedAnswer, lists=True)(subscribe)
    subscriptions.event(f"unsubscribe-{_kind}", RoomRequest(_kind), RoomAnswer, lists=True)(unsubscribe)


def _not_subscribed(room: str) -> RequestError:
    return RequestError(ErrorCode.NOT_SUBSCRIBED, f"not subscribed to {room}")


@subscriptions.event("history", HistoryRequest(), HistoryAnswer)
def history(call: Call, request: History) -> Answer:
    """A page of a room that the session is in."""
    call.hub.admission.require(call.session, "read", request.room)
    if request.room not in call.session.subs:
        raise _not_subscribed(request.room)
    return history_answer(read_history(call.hub, request, call.charge))


def _free(_size: int) -> None:
    return None


def read_history(hub: Hub, request: History, charge: Callable[[int], None] = _free) -> HistoryPage:
    """A page, by one read that many clients share; `charge` is told how many bytes were read for it.

    Raises RequestError (`not_found`) when the history of the requested epoch is gone, and BrokerUnavailable.
    """
    backwards = request.since is None
    page = hub.delivery.reads.read([HistoryQuery(
        request.room, request.before if backwards else request.since, request.limit, backwards)])[0]
    if request.epoch and request.epoch != page.head.epoch:
        raise RequestError(ErrorCode.NOT_FOUND, f"{request.room} has begun a new history: epoch {page.head.epoch}")
    found = page.publications
    charge(sum(len(one.body) for one in found))
    if not backwards and request.before is not None:
        found = tuple(one for one in found if one.seq(page.room) < request.before)
    return replace(page, publications=found[:_fitting(found)])


def _fitting(found: Sequence[Publication]) -> int:
    """How many fit into a page; the first always does."""
    sizes = accumulate(len(one.body) for one in found)
    return max(1, sum(1 for _ in takewhile(lambda size: size <= MAX_PAGE, sizes)))


def history_answer(page: HistoryPage) -> Answer:
    """A page as clients and callers of the server API get it."""
    events = JsonText(b"[" + b",".join(_entry(one, page.room) for one in page.publications) + b"]")
    return {"room": page.room, "epoch": page.head.epoch, "seq": page.head.seq, "first": page.first, "events": events}


def _entry(one: Publication, room: str) -> bytes:
    """The data is JSON in the record, and is not read to be written again."""
    return dumps_spliced({"event": one.event, "data": JsonText(one.data_json(room)), "id": one.id, "ts": one.ts,
                          "seq": one.seq(room)})
