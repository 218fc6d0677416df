"""Rooms: subscribing, with what was missed since a position, leaving, and reading history."""

from __future__ import annotations

from typing import Any

from wsapp import schemas
from wsapp.core.events import Position, strict_loads
from wsapp.core.ports import HistoryQuery
from wsapp.errors import BrokerUnavailable, ErrorCode, RequestError
from wsapp.runtime.event_blueprint import Call, EventBlueprint, EventHandler
from wsapp.runtime.lifecycle import require_rooms_left
from wsapp.runtime.recovery import recover

subscriptions = EventBlueprint("wsapp_subscriptions", __name__)


def _subscriber(kind: str) -> EventHandler:
    def subscribe(call: Call, payload: Any) -> dict[str, object]:
        """`id` or `{id, since?, presence?}`; told `{room, epoch, seq}`, with `since` `{recovered, missed, reason?}`,
        with `presence: true` `presence {users, connections, members}`."""
        asked = schemas.load_request(f"subscribe-{kind}", payload)
        assert isinstance(asked, schemas.Subscribe)
        return join(call, asked)

    return subscribe


def _unsubscriber(kind: str) -> EventHandler:
    def unsubscribe(call: Call, payload: Any) -> dict[str, object]:
        asked = schemas.load_request(f"unsubscribe-{kind}", payload)
        assert isinstance(asked, schemas.Unsubscribe)
        if not call.hub.connections.leave_room(call.session.sid, asked.room):
            raise RequestError(ErrorCode.NOT_SUBSCRIBED, f"not subscribed to {asked.room}")
        call.hub.lifecycle.save(call.session)
        return {"room": asked.room}

    return unsubscribe


for _kind in schemas.KINDS:
    subscriptions.event(f"subscribe-{_kind}")(_subscriber(_kind))
    subscriptions.event(f"unsubscribe-{_kind}")(_unsubscriber(_kind))


def join(call: Call, asked: schemas.Subscribe) -> dict[str, object]:
    """Put the session into the room and have it saved there before the client is told so."""
    hub, session = call.hub, call.session
    fresh = asked.room not in session.subs
    if fresh:
        _require_rooms_left(call)
    hub.admission.require(session, "read", asked.room)
    if asked.presence:
        hub.admission.require(session, "presence", asked.room)
    for hook in hub.hooks["subscribe"]:
        if hook(session, asked.room) is False:
            raise hub.admission.denied(session, "read", asked.room, "by a hook")
    since = None if asked.since is None else Position(asked.epoch, asked.since)
    recovery = recover(session, {asked.room: since}, hub.connections.registry, hub.delivery)
    recovery.pace(hub.delivery.pace)
    call.after.append(recovery.release)
    if asked.presence:
        session.watching |= {asked.room}
    try:
        hub.lifecycle.save(session)
    except BrokerUnavailable:
        if fresh:
            hub.connections.registry.leave(session, asked.room)  # the connection may be over by now
        raise
    position = recovery.positions[asked.room]
    told: dict[str, object] = {"room": asked.room, "epoch": position.epoch, "seq": position.seq}
    if since is not None:
        told |= {"recovered": recovery.recovered, "missed": recovery.missed}
        hub.metrics.recovery_refused += not recovery.recovered
        if recovery.skipped:
            told["skipped"] = recovery.skipped
        if recovery.reason is not None:
            told["reason"] = recovery.reason
    if asked.presence:
        told["presence"] = hub.presence.subscribe(session, asked.room)
    return told


def _require_rooms_left(call: Call) -> None:
    try:
        require_rooms_left(call.session, call.hub.settings.max_rooms)
    except RequestError:
        call.hub.metrics.count("roomsRefused")
        raise


@subscriptions.event("history")
def history(call: Call, payload: Any) -> dict[str, object]:
    """`{room, since?|before?, limit?, epoch?}` of a room the session is in; told `{epoch, seq, first, events}`, each
    event `{event, data, id, ts, seq}`."""
    asked = schemas.load_request("history", payload)
    assert isinstance(asked, schemas.History)
    call.hub.admission.require(call.session, "read", asked.room)
    if asked.room not in call.session.subs:
        raise RequestError(ErrorCode.NOT_SUBSCRIBED, f"not subscribed to {asked.room}")
    backwards = asked.since is None
    page = call.hub.delivery.reads.read([HistoryQuery(
        asked.room, asked.before if backwards else asked.since, asked.limit, backwards)])[0]
    if asked.epoch and asked.epoch != page.head.epoch:
        raise RequestError(ErrorCode.NOT_FOUND, f"{asked.room} has begun a new history: epoch {page.head.epoch}")
    publications = map(call.session.as_seen, page.publications)
    events = [{"event": found.event, "data": strict_loads(found.data_json(asked.room)), "id": found.id,
               "ts": found.ts, "seq": found.seq(asked.room)} for found in publications]
    return {"room": asked.room, "epoch": page.head.epoch, "seq": page.head.seq, "first": page.first, "events": events}
