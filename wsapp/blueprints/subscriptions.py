"""Rooms: subscribing, with what was missed since a position, leaving, and reading history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsapp import schemas
from wsapp.core.events import strict_loads
from wsapp.core.ports import HistoryQuery
from wsapp.errors import BrokerUnavailable, ErrorCode, PayloadError, RequestError, WsappError
from wsapp.runtime.event_blueprint import Call, EventBlueprint, EventHandler
from wsapp.runtime.inbound import Verdict
from wsapp.runtime.lifecycle import require_rooms_left
from wsapp.runtime.recovery import Recovery, recover

subscriptions = EventBlueprint("wsapp_subscriptions", __name__)


Answer = dict[str, object]


def _requests(call: Call, event: str, payload: Any) -> list[schemas.Request | PayloadError]:
    """The requests of a list, each checked by itself.  Raises PayloadError, and RequestError (`rate_limited`): a list
    counts as one packet for every `schemas.LIST_ITEMS_PER_PACKET` items."""
    requests = schemas.load_requests(event, payload)
    more = len(requests) // schemas.LIST_ITEMS_PER_PACKET
    session = call.session
    if any(call.hub.inbound.admit(session.peer.sid, session.user_id) is not Verdict.TAKE for _ in range(more)):
        call.hub.metrics.count("inboundRefused")
        raise RequestError(ErrorCode.RATE_LIMITED, "too many rooms at once (WSAPP_MAX_INBOUND_PER_SEC)")
    return requests


def _answers(results: Sequence[Answer | WsappError]) -> Answer:
    """The answer to a list: one `{ok, ...}` for each item, in the order of the list."""
    return {"rooms": [{"ok": False, "error": one.told()} if isinstance(one, WsappError) else {"ok": True, **one}
                      for one in results]}


def _answer(results: Sequence[Answer | WsappError]) -> Answer:
    """The answer to a single request.  Raises what refused it."""
    [result] = results
    if isinstance(result, WsappError):
        raise result
    return result


def _subscriber(kind: str) -> EventHandler:
    def subscribe(call: Call, payload: Any) -> Answer:
        """`id` or `{id, since?, presence?}`; answers `{room, epoch, seq}`, with `since` `{recovered, missed, reason?}`,
        with `presence: true` `presence {users, connections, members}`.  Or a list; answers `{rooms: [...]}`."""
        if isinstance(payload, list):
            return _answers(join(call, _requests(call, f"subscribe-{kind}", payload)))
        return _answer(join(call, [schemas.load_request(f"subscribe-{kind}", payload)]))

    return subscribe


def _unsubscriber(kind: str) -> EventHandler:
    def unsubscribe(call: Call, payload: Any) -> Answer:
        """`id` or `{id}`, or a list of these."""
        if isinstance(payload, list):
            return _answers(leave(call, _requests(call, f"unsubscribe-{kind}", payload)))
        return _answer(leave(call, [schemas.load_request(f"unsubscribe-{kind}", payload)]))

    return unsubscribe


for _kind in schemas.KINDS:
    subscriptions.event(f"subscribe-{_kind}")(_subscriber(_kind))
    subscriptions.event(f"unsubscribe-{_kind}")(_unsubscriber(_kind))


def join(call: Call, requests: Sequence[schemas.Request | PayloadError]) -> list[Answer | WsappError]:
    """Put the session into the rooms that it may join, and save it there before the client gets its answer: one
    recovery and one write for all of them.  The answer to each request, or the error that refused it.

    Raises BrokerUnavailable; then the session is in none of the rooms that it was not in before.
    """
    hub, session = call.hub, call.session
    results: list[Answer | WsappError] = []
    wanted: dict[str, schemas.Subscribe] = {}
    for request in requests:
        result = _refusal(call, request, wanted)
        if isinstance(request, schemas.Subscribe) and result is None:
            wanted[request.room] = request
        results.append(result or {})
    if not wanted:
        return results
    fresh = [room for room in wanted if room not in session.subs]
    recovery = recover(session, {room: request.position for room, request in wanted.items()},
                       hub.connections.registry, hub.delivery)
    recovery.pace(hub.delivery.pace, each=True)
    call.after.append(recovery.release)
    session.watching |= {room for room, request in wanted.items() if request.presence}
    try:
        hub.lifecycle.save(session)
    except BrokerUnavailable:
        for room in fresh:
            hub.connections.registry.leave(session, room)  # the connection may be over by now
        raise
    for number, request in enumerate(requests):
        if isinstance(request, schemas.Subscribe) and not isinstance(results[number], WsappError):
            results[number] = _joined(call, request, recovery)
    return results


def _refusal(call: Call, request: schemas.Request | PayloadError,
             wanted: Mapping[str, schemas.Subscribe]) -> WsappError | None:
    """Why a room is not joined, beside those that are `wanted` already; None when it is."""
    if not isinstance(request, schemas.Subscribe):
        return request if isinstance(request, PayloadError) else None
    if request.room in wanted:
        return PayloadError(f"{request.room} is given twice", {"id": ["is given twice"]})
    try:
        _require_allowed(call, request, len([room for room in wanted if room not in call.session.subs]))
    except RequestError as error:
        return error
    return None


def _require_allowed(call: Call, request: schemas.Subscribe, more: int) -> None:
    """Raises RequestError unless the session may join the room, when it joins `more` others beside."""
    hub, session = call.hub, call.session
    if request.room not in session.subs:
        try:
            require_rooms_left(session, hub.settings.max_rooms - more)
        except RequestError:
            hub.metrics.count("roomsRefused")
            raise
    hub.admission.require(session, "read", request.room)
    if request.presence:
        hub.admission.require(session, "presence", request.room)
    for hook in hub.hooks["subscribe"]:
        if hook(session, request.room) is False:
            raise hub.admission.denied(session, "read", request.room, "by a hook")


def _joined(call: Call, request: schemas.Subscribe, recovery: Recovery) -> Answer:
    room, at = request.room, recovery.positions[request.room]
    answer: Answer = {"room": room, "epoch": at.epoch, "seq": at.seq}
    if request.since is not None:
        answer |= recovery.outcome(room)
        call.hub.metrics.recovery_refused += not answer["recovered"]
    if request.presence:
        answer["presence"] = call.hub.presence.subscribe(call.session, room)
    return answer


def leave(call: Call, requests: Sequence[schemas.Request | PayloadError]) -> list[Answer | WsappError]:
    """Take the session out of the rooms, and save it once.  The answer to each request, or the error that refused
    it.  Raises BrokerUnavailable."""
    results: list[Answer | WsappError] = []
    for request in requests:
        if isinstance(request, PayloadError):
            results.append(request)
        elif isinstance(request, schemas.Unsubscribe):
            left = call.hub.connections.leave_room(call.session.sid, request.room)
            results.append({"room": request.room} if left else _not_subscribed(request.room))
    if any(isinstance(result, dict) for result in results):
        call.hub.lifecycle.save(call.session)
    return results


def _not_subscribed(room: str) -> RequestError:
    return RequestError(ErrorCode.NOT_SUBSCRIBED, f"not subscribed to {room}")


@subscriptions.event("history")
def history(call: Call, payload: Any) -> dict[str, object]:
    """`{room, since?|before?, limit?, epoch?}` of a room the session is in; told `{epoch, seq, first, events}`, each
    event `{event, data, id, ts, seq}`."""
    asked = schemas.load_request("history", payload)
    assert isinstance(asked, schemas.History)
    call.hub.admission.require(call.session, "read", asked.room)
    if asked.room not in call.session.subs:
        raise _not_subscribed(asked.room)
    backwards = asked.since is None
    page = call.hub.delivery.reads.read([HistoryQuery(
        asked.room, asked.before if backwards else asked.since, asked.limit, backwards)])[0]
    if asked.epoch and asked.epoch != page.head.epoch:
        raise RequestError(ErrorCode.NOT_FOUND, f"{asked.room} has begun a new history: epoch {page.head.epoch}")
    events = [{"event": found.event, "data": strict_loads(found.data_json(asked.room)), "id": found.id,
               "ts": found.ts, "seq": found.seq(asked.room)} for found in page.publications]
    return {"room": asked.room, "epoch": page.head.epoch, "seq": page.head.seq, "first": page.first, "events": events}
