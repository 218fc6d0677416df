"""Joining rooms without a hole: what a subscription missed is read, ordered and sent before anything live (G3).

The worker follows the room first; live publications are held for the subscription while its history is read; what
was missed is sent in publish order, each event once however many of the rooms it was in; then what was held; then
the subscription is live.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Mapping
from typing import Final

import gevent

from wsapp.core.events import Position, Publication, packet
from wsapp.core.history import Join, More, Recovered, Refused
from wsapp.core.registry import Registry
from wsapp.core.session import Session, State, Subscription, Tail
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.delivery import PAGE, Delivery
from wsapp.transport.frames import Frame

BROKER_ID: Final = 14  # digits of an id that the broker made; those of workers are longer
CHUNK: Final = 200  # replayed events between looks at how the client keeps up
HIGH_WATER: Final = 1_000_000  # bytes that may wait for a client during a replay
PATIENCE: Final = 0.02  # seconds between those looks


class Recovery:
    """What one session gets for the rooms it (re)joins.  Nothing is sent before `release`."""

    def __init__(self, session: Session, delivery: Delivery) -> None:
        self.session, self._delivery = session, delivery
        self.refused: dict[str, Refused] = {}
        self.positions: dict[str, Position] = {}
        self._subs: list[Subscription] = []
        self._found: dict[str, tuple[Publication, ...]] = {}
        self.came: dict[str, tuple[int, int]] = {}
        self.critical: frozenset[str] = frozenset()  # ids of the critical ones that were replayed

    @property
    def recovered(self) -> bool:
        """Whether everything that was asked for is there (G3: never partial)."""
        return not self.refused

    @property
    def missed(self) -> int:
        """How many events were missed: replayed ones, or those that can't be when not `recovered`."""
        if self.refused:
            return sum(refused.missed for refused in self.refused.values())
        return len({publication.id for found in self._found.values() for publication in found})

    @property
    def reason(self) -> str | None:
        """Why not, for the first room that was refused."""
        return next((str(refused.reason) for refused in self.refused.values()), None)

    def found(self, room: str, publications: tuple[Publication, ...]) -> None:
        """What was missed in one room, in its order, without what came through a live room meanwhile."""
        self._found[room] = tuple(one for one in publications if not self._has_come(one))

    def _has_come(self, publication: Publication) -> bool:
        """`came` says of each live room where it stood before and after the rooms were opened.  Meanwhile it passed
        on everything; afterwards only what stands in none of the session's rooms before it."""
        subs, first = self.session.subs, True
        for room, seq, _ in publication.places:
            before, opened = self.came.get(room, (seq, seq))
            if before < seq <= opened or (first and before < seq and room in subs and seq <= subs[room].sent):
                return True
            first = first and room not in subs
        return False

    def add(self, sub: Subscription, position: Position) -> None:
        """The subscription stands at `position`; what comes from now on is held until `release`."""
        self.positions[sub.room.name] = position
        sub.sent = position.seq
        sub.join = Tail()
        self._subs.append(sub)

    def forget_up_to(self, id: str) -> None:
        """Leave out what the client says it has: everything up to and including this id.  In the rooms that contain
        the event its place counts; ids decide in the others.  An id that a worker made while Redis was away proves
        nothing about what was recorded meanwhile, nor the other way round: rather twice than not at all."""
        if len(id) != BROKER_ID:
            return
        for room, found in self._found.items():
            at = next((number for number, one in enumerate(found) if one.id == id), None)
            self._found[room] = found[at + 1:] if at is not None else tuple(
                one for one in found if one.id > id or len(one.id) != BROKER_ID)

    def _in_order(self) -> list[tuple[str, Publication]]:
        """By id over the rooms, each event once; the order within a room is never changed."""
        lists = [[(publication.id, room, publication) for publication in found] for room, found in self._found.items()]
        seen: set[str] = set()
        merged = []
        for id, room, publication in heapq.merge(*lists, key=operator.itemgetter(0)):
            if id not in seen:
                seen.add(id)
                merged.append((room, publication))
        return merged

    def release(self) -> None:
        """Send what was missed, in publish order, and go live."""
        session, delivery = self.session, self._delivery
        in_order, self._found = self._in_order(), {}
        if delivery.fanout.critical is not None:
            self.critical = delivery.fanout.critical.replaying(session, (publication for _, publication in in_order))
        for start in range(0, len(in_order), CHUNK):
            for room, publication in in_order[start:start + CHUNK]:
                delivery.fanout.replay(session, publication, room)
            session.sent += len(in_order[start:start + CHUNK])
            delivery.metrics.sent += len(in_order[start:start + CHUNK])
            while session.peer.backlog() > HIGH_WATER and session.subs:  # none when it has gone meanwhile
                gevent.sleep(PATIENCE)
        replayed = {publication.id for _, publication in in_order}
        for sub in self._subs:
            _go_live(sub, delivery, replayed)


def _go_live(sub: Subscription, delivery: Delivery, replayed: set[str]) -> None:
    """Hand over what was held meanwhile and let the rest come live; nothing yields in between.  What was replayed for
    another room is not sent again."""
    tail = sub.join
    if sub.state is State.LEFT or not isinstance(tail, Tail):
        return
    sub.go_live(sub.sent)
    for publication, seq in tail.held:
        if seq > sub.sent and publication.id not in replayed:
            delivery.fanout.serve_one(sub, publication, seq)
        sub.sent = max(sub.sent, seq)


def recover(session: Session, wanted: Mapping[str, Position | None], registry: Registry,
            delivery: Delivery) -> Recovery:
    """Join rooms, each from its position on (None: from now on).  Raises BrokerUnavailable; then the session is in
    none of the rooms that it was not in before."""
    recovery = Recovery(session, delivery)
    fresh = [name for name in wanted if name not in session.subs]
    live = {name: sub.sent for name, sub in session.subs.items() if sub.state is State.LIVE and name not in wanted}
    subs = [registry.join(session, name) for name in wanted]
    try:
        delivery.open_rooms([sub.room for sub in subs])
        recovery.came = {name: (sent, session.subs[name].sent) for name, sent in live.items() if name in session.subs}
        _catch_up(recovery, subs, wanted, delivery)
    except BrokerUnavailable:
        for name in fresh:
            registry.leave(session, name)
        for sub in subs:
            if sub.state is State.RECOVERING:
                _stay_live(sub)
        raise
    return recovery


def _stay_live(sub: Subscription) -> None:
    """A member of before stays one; what came during the reading that failed is told as missed."""
    at = sub.room.track.position
    missed = at.seq - sub.sent
    sub.go_live(at.seq)
    if missed > 0:
        sub.session.peer.push(Frame(packet("resync", {"room": sub.room.name, "epoch": at.epoch, "seq": at.seq,
                                                      "reason": "unavailable", "missed": missed})))


def _catch_up(recovery: Recovery, subs: list[Subscription], wanted: Mapping[str, Position | None],
              delivery: Delivery) -> None:
    joins: dict[str, tuple[Subscription, Join]] = {}
    for sub in subs:
        since = wanted[sub.room.name]
        if since is None and sub.state is State.LIVE:  # joining again proves nothing about what was sent
            recovery.positions[sub.room.name] = sub.room.track.position
            continue
        if since is not None and not since.epoch:
            since = Position(sub.room.track.epoch, since.seq)
        if since is None or since == sub.room.track.position:
            sub.state = State.RECOVERING
            sub.room.changed()
            _settle(recovery, sub, sub.room.track.position, since)
            continue
        join = Join(sub.room.name, since, max_replay=delivery.max_replay)
        sub.state, sub.join = State.RECOVERING, join
        sub.room.changed()
        joins[sub.room.name] = (sub, join)
    while joins:
        pages = delivery.broker.read([join.query(PAGE) for _, join in joins.values()])
        for page in pages:
            sub, join = joins[page.room]
            step = join.page(page)
            if isinstance(step, More):
                continue
            del joins[page.room]
            if isinstance(step, Recovered):
                recovery.found(page.room, step.publications)
            else:
                recovery.refused[page.room] = step
            _settle(recovery, sub, step.position, wanted[page.room])


def _settle(recovery: Recovery, sub: Subscription, position: Position, since: Position | None) -> None:
    recovery.add(sub, position)
    known = since.seq if since is not None and sub.room.name not in recovery.refused else position.seq
    sub.pinged = sub.confirmed = known
