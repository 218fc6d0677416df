"""Joining rooms without a hole: what a subscription missed is read, ordered and sent before anything live (G3).

The worker follows the room first; live publications are held for the subscription while its history is read; what
was missed is sent in publish order, each event once however many of the rooms it was in; then what was held; then
the subscription is live.  Of a very long absence not everything is sent, but the client is told what was not.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import gevent

from wsapp.core.backlog import Shed
from wsapp.core.catch_up import Pace, is_critical, shed_of, thin
from wsapp.core.events import Position, Publication, packet
from wsapp.core.history import Join, More, Reason, Recovered, Refused
from wsapp.core.registry import Registry, Room
from wsapp.core.session import Session, State, Subscription
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.delivery import PAGE, Delivery
from wsapp.transport.frames import Frame
from wsapp.transport.outbox import CROWDED, RELIEVED

SLICE: Final = 64  # replayed events that go out together; then everybody else gets a turn
SLICE_BYTES: Final = 16_384
PATIENCE: Final = 0.02  # seconds between looks at how a client keeps up; they double up to
LONG_PATIENCE: Final = 0.2
MOST_HELD: Final = 1000  # events that may come live behind a replay before it waits for its client no more


class Recovery:
    """What one session gets for the rooms it (re)joins.  Nothing is sent before `release`."""

    def __init__(self, session: Session, delivery: Delivery) -> None:
        self.session, self._delivery = session, delivery
        self.refused: dict[str, Refused] = {}
        self.positions: dict[str, Position] = {}
        self._subs: list[Subscription] = []
        self._found: dict[str, tuple[Publication, ...]] = {}
        self._skipped: dict[str, tuple[Publication, ...]] = {}  # not sent, but told behind those
        self._told_behind: dict[str, int] = {}  # how many of a room are sent before what was skipped is told
        self.came: dict[str, tuple[int, int]] = {}
        self.critical: frozenset[str] = frozenset()  # ids of the critical ones that were replayed

    @property
    def recovered(self) -> bool:
        """Whether everything that was asked for is there (G3: never partial)."""
        return not self.refused

    def outcome(self, room: str | None = None) -> dict[str, object]:
        """What an answer says about the recovery of one room, or of all: `{recovered, missed, skipped?, reason?}`.

        `missed` counts the events that are replayed or skipped, or those that cannot be replayed when not
        `recovered`; `skipped` those that are not sent, but reported by `shed`; `reason` belongs to the first room
        that was refused.
        """
        refused = [one for name, one in self.refused.items() if room in (None, name)]
        outcome: dict[str, object] = {"recovered": not refused}
        if refused:
            return outcome | {"missed": sum(one.missed for one in refused), "reason": str(refused[0].reason)}
        found, skipped = _ids(self._found, room), _ids(self._skipped, room)
        outcome["missed"] = len(found | skipped)
        left_out = skipped - _ids(self._found, None) if skipped else skipped
        return outcome | {"skipped": len(left_out)} if left_out else outcome

    @property
    def untold(self) -> frozenset[str]:
        """The rooms in which `shed` will tell what was left out, behind states that are newer than some of it."""
        return frozenset(self._sheds())

    def found(self, room: str, publications: tuple[Publication, ...]) -> None:
        """What was missed in one room, in its order, without what came through a live room meanwhile."""
        had = self._delivery.fanout.had
        self._found[room] = tuple(one for one in publications if not self._has_come(one)
                                  and not had.has(self.session, one, room)) if self.came or had else publications

    def _has_come(self, publication: Publication) -> bool:
        """`came` says of each live room where it stood before and after the rooms were opened.  Meanwhile it passed
        on everything; afterwards only what stands in none of the session's rooms before it."""
        subs, first = self.session.subs, True
        for room, seq, _ in publication.places:
            before, opened = self.came.get(room, (seq, seq))
            if before < seq <= opened or (first and before < seq and room in subs and seq <= subs[room].room.log.head):
                return True
            first = first and room not in subs
        return False

    def add(self, sub: Subscription, position: Position) -> None:
        """The subscription stands at `position`; what comes from now on is held until `release`."""
        self.positions[sub.room.name] = position
        sub.drop()
        sub.sent = position.seq
        self._subs.append(sub)

    def pace(self, pace: Pace, *, each: bool = False) -> None:
        """Of a room with too much to replay, skip what is neither new nor needed.  `each`: the rooms were requested one
        by one, so that a refused one takes nothing from the others."""
        if self.refused:
            self._drop(self.refused.keys() if each else self._found.keys() | self.refused.keys())
        for room, found in self._found.items():
            if room not in self.refused and pace.exceeded(len(found)):
                kept, skipped, tail = thin(found, pace.tail)
                self._found[room], self._skipped[room] = kept + tail, skipped
                self._told_behind[room] = len(kept)

    def _drop(self, rooms: Collection[str]) -> None:
        """Nothing is replayed in these rooms, but what must be acknowledged."""
        for room, found in self._found.items():
            if room not in rooms:
                continue
            if found and room not in self.refused:
                self.refused[room] = Refused(Reason.TOO_MANY, len(found), self.positions[room])
            self._found[room] = tuple(one for one in found if is_critical(one))
        for sub in self._subs:
            if sub.room.name in rooms:
                sub.pinged = sub.confirmed = self.positions[sub.room.name].seq

    # -- sending

    def _sheds(self) -> dict[str, tuple[Shed, tuple[Publication, ...]]]:
        """What to tell of each room; what comes through another one was not skipped."""
        sent = {one.id for found in self._found.values() for one in found} if self._skipped else frozenset()
        sheds = {}
        for room, skipped in self._skipped.items():
            left = tuple(one for one in skipped if one.id not in sent)
            shed = shed_of(room, left)
            if shed is not None:
                sheds[room] = shed, left
        return sheds

    def _of_room(self, room: str, found: tuple[Publication, ...]) -> Iterator[tuple[str, str, Publication | None]]:
        """In its order; None where the room's shed is to be told."""
        behind = self._told_behind.get(room)
        for number, publication in enumerate(found):
            if number == behind:
                yield publication.id, room, None
            yield publication.id, room, publication
        if behind == len(found):
            yield found[-1].id if found else "", room, None

    def _in_order(self, replayed: set[str] | None) -> Iterator[tuple[str, Publication | None]]:
        """By id over the rooms, each event once; the order within a room is never changed.  `replayed` takes the
        ids, where one may come through several rooms."""
        found, self._found = self._found, {}
        rooms = [self._of_room(room, publications) for room, publications in found.items()]
        for id, room, publication in heapq.merge(*rooms, key=operator.itemgetter(0)):
            if publication is not None and replayed is not None:
                if id in replayed:
                    continue
                replayed.add(id)
            yield room, publication

    def release(self) -> None:
        """Send what was missed, in publish order, and go live."""
        session, delivery = self.session, self._delivery
        if delivery.fanout.critical is not None:
            unacknowledged = {one.id: one for found in self._found.values() for one in found if one.critical}
            self.critical = delivery.fanout.critical.replaying(session, unacknowledged.values())
        replayed: set[str] | None = set() if len(session.subs) > 1 else None
        self._replay(replayed)
        for sub in self._subs:
            if self.positions[sub.room.name].epoch:
                delivery.reach(sub.room, self.positions[sub.room.name])
        for sub in self._subs:
            _go_live(sub, self.positions[sub.room.name], delivery, replayed or set())

    def _replay(self, replayed: set[str] | None) -> None:
        sheds, self._skipped = self._sheds(), {}
        run: list[tuple[str, Publication]] = []
        size = 0
        for room, publication in self._in_order(replayed):
            if publication is not None:
                run.append((room, publication))
                size += len(publication.body)
            if publication is None or len(run) >= SLICE or size >= SLICE_BYTES:
                self._send(run)
                run, size = [], 0
                if publication is None and room in sheds:
                    self._delivery.fanout.skip(self.session, *sheds[room])
                self._wait()
            if not self.session.subs:  # it has gone meanwhile
                return
        self._send(run)

    def _send(self, run: list[tuple[str, Publication]]) -> None:
        if run:
            session = self.session
            self._delivery.fanout.replay(session, run)
            session.sent += len(run)
            self._delivery.metrics.sent += len(run)

    def _wait(self) -> None:
        """Others get their turn, and a client that is behind gets time to read: what it was sent already is bounded, as
        for the fan-out.  But what comes live meanwhile is held, and must not become too much either."""
        peer, pause = self.session.peer, PATIENCE
        if peer.backlog() <= CROWDED:
            gevent.sleep(0)
            return
        while peer.backlog() > RELIEVED and self.session.subs and not self._overtaken():
            gevent.sleep(pause)
            pause = min(2 * pause, LONG_PATIENCE)

    def _overtaken(self) -> bool:
        return any(sub.room.log.head - sub.sent > MOST_HELD for sub in self._subs)


def _ids(found: Mapping[str, tuple[Publication, ...]], room: str | None) -> set[str]:
    """The ids of what was found in one room, or in all."""
    return {one.id for publications in (found.values() if room is None else [found.get(room, ())])
            for one in publications}


def _go_live(sub: Subscription, position: Position, delivery: Delivery, replayed: set[str]) -> None:
    """Let the rest come live, first what came meanwhile; nothing yields in between.  What was replayed for another room
    is not sent again."""
    if sub.state is not State.RECOVERING:
        return
    room = sub.room
    if position.epoch and room.track.epoch not in ("", position.epoch):
        _start_again(sub)  # the room's history began again meanwhile
    elif replayed:
        sub.ahead = {entry.seq for entry in room.log.after(sub.sent, room.log.head)
                     if entry.publication.id in replayed} or None
    if sub.state is State.RECOVERING:
        sub.go_live(sub.sent)
    delivery.fanout.catch_up(sub)


def _start_again(sub: Subscription) -> None:
    """From the oldest publication of the new history that this worker keeps."""
    room, at = sub.room, sub.room.log.first - 1
    sub.session.peer.push(Frame(packet("resync", {"room": room.name, "epoch": room.track.epoch, "seq": at,
                                                  "reason": str(Reason.EPOCH), "missed": room.track.seq})))
    sub.session.dirty = True
    sub.started(at)
    sub.go_live(at)


def recover(session: Session, wanted: Mapping[str, Position | None], registry: Registry,
            delivery: Delivery) -> Recovery:
    """Join rooms, each from its position on (None: from now on).  Raises BrokerUnavailable; then the session is in
    none of the rooms that it was not in before."""
    recovery = Recovery(session, delivery)
    fresh = [name for name in wanted if name not in session.subs]
    live = {name: sub.room.log.head for name, sub in session.subs.items()
            if sub.state is State.LIVE and name not in wanted}
    subs = [registry.join(session, name) for name in wanted]
    try:
        delivery.open_rooms([sub.room for sub in subs])
        recovery.came = {name: (head, session.subs[name].room.log.head) for name, head in live.items()
                         if name in session.subs}
        _catch_up(recovery, subs, wanted, delivery)
    except BrokerUnavailable:
        for name in fresh:
            registry.leave(session, name)
        for sub in subs:
            if sub.state is State.RECOVERING:
                _stay_live(sub, delivery)
        raise
    return recovery


def _stay_live(sub: Subscription, delivery: Delivery) -> None:
    """A member of before stays one; what came during the reading that failed is in the room's log."""
    sub.go_live(sub.sent)
    delivery.fanout.resume(sub)


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
            delivery.fanout.suspend(sub)
            _settle(recovery, sub, sub.room.track.position, since)
            continue
        delivery.fanout.suspend(sub)
        sub.began = since.seq
        log, same = sub.room.log, since.epoch == sub.room.track.epoch
        if same and log.covers(since.seq) and log.head - since.seq <= delivery.max_replay:
            recovery.found(sub.room.name, _from_log(sub.room, since.seq))
            _settle(recovery, sub, sub.room.track.position, since)
            continue
        join = Join(sub.room.name, since, max_replay=delivery.max_replay)
        joins[sub.room.name] = (sub, join)
    while joins:
        pages = delivery.reads.catch_up([join.query(PAGE) for _, join in joins.values()])
        for page in pages:
            sub, join = joins[page.room]
            step = join.page(page)
            if isinstance(step, More):
                continue
            del joins[page.room]
            at, room = step.position, sub.room
            if isinstance(step, Recovered):
                came = _from_log(room, at.seq) if room.track.epoch == at.epoch and room.log.covers(at.seq) else ()
                recovery.found(page.room, step.publications + came)
                at = Position(at.epoch, at.seq + len(came))
            else:
                recovery.refused[page.room] = step
            _settle(recovery, sub, at, wanted[page.room])


def _from_log(room: Room, seq: int) -> tuple[Publication, ...]:
    return tuple(entry.publication for entry in room.log.after(seq, room.log.head))


def _settle(recovery: Recovery, sub: Subscription, position: Position, since: Position | None) -> None:
    recovery.add(sub, position)
    known = since.seq if since is not None and sub.room.name not in recovery.refused else position.seq
    sub.pinged = sub.confirmed = sub.began = known
