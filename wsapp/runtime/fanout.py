"""A publication of a room to its members: bucket, frame, send().

A room's publications stand in its log, and each member is a cursor in it.  A member that may be sent to at once gets
the shared frame of the event; any other is *behind* and costs nothing until the throttle's next flush, which brings it
what lies between its cursor and the head.  A publication is encoded once per client profile and room; all that read
share the bytes.  A room with many members is served in slices, between which everybody else gets a turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

import gevent
from gevent.event import Event

from wsapp.core.backlog import Shed
from wsapp.core.connections import ConnectionManager
from wsapp.core.events import Lane, Publication, packet
from wsapp.core.ids import made_ms
from wsapp.core.ledger import Ledger
from wsapp.core.partitions import SPREAD
from wsapp.core.registry import Room, Slice
from wsapp.core.room_log import LogEntry
from wsapp.core.session import PROFILES, Session, State, Subscription
from wsapp.metrics import Metrics
from wsapp.runtime.batches import send_joined, single_frame
from wsapp.runtime.critical import CriticalDelivery
from wsapp.runtime.flusher import Flusher
from wsapp.runtime.had import Had
from wsapp.transport.frames import Frame, Squeeze, joined

VARIANTS: Final = 2 * PROFILES  # each profile, plain and compressed
FEW: Final = 16  # members that are served on the spot: to wait for more that could go with it does not pay
SLICE: Final = 256  # members served before other rooms and clients get their turn
JOINED: Final = 200  # publications that go to a member in one send
NOBODY: Final[frozenset[Session]] = frozenset()


class Fanout:
    """The way from a publication to the sockets of one worker."""

    def __init__(self, connections: ConnectionManager, metrics: Metrics, critical: CriticalDelivery | None = None,
                 ledger: Ledger | None = None, squeeze: Squeeze = bytes, *, partitions: int = 1,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.connections, self.registry, self.throttler = connections, connections.registry, connections.throttler
        self.metrics, self._clock = metrics, clock
        self.critical, self.ledger, self.squeeze = critical, ledger, squeeze
        self.had = Had(partitions)
        self._queue: deque[Room] = deque()  # the rooms with members that are still to be served, in their order
        self.flusher = Flusher(connections, metrics, ledger, clock)
        self._work = Event()

    # -- rooms

    def pass_on(self, room: Room, publication: Publication, seq: int) -> None:
        """The next publication of a room, to all its live members."""
        log, name, flags, now = room.log, room.name, publication.flags, self._clock()
        if seq != log.head + 1:
            self.began_again(room, seq - 1)
        spread = SPREAD in flags
        had = self.had.sessions(publication, name) if self.had else NOBODY
        special = (spread or bool(had) or publication.lane is Lane.CRITICAL or publication.places[0].room != name)
        log.append(publication, seq, now, had, special)
        live = room.live()
        if spread:
            self.had.add(publication, name, [sub.session for sub in live
                                             if not sub.session.gets_through_another(publication, name)])
        for sub in live if self.ledger is not None else ():
            self.ledger.owed(sub.session.id, publication.id, name, seq, publication.entity)  # type: ignore[union-attr]
        if (publication.critical and self._hold(room, publication, seq, had)) or room.held:
            return
        if not live:
            room.served = seq
        elif len(live) <= FEW and not self._queue and room.served == seq - 1:
            self._serve(room, live, seq, publication, special)
            room.served = seq
        else:
            self._enter(room)

    def _hold(self, room: Room, publication: Publication, seq: int, had: Collection[Session]) -> bool:
        """Whether the room waits until a critical publication is kept; what follows it there waits behind it."""
        if self.critical is None:
            return False
        users = {session.user_id for session in room.members if session not in had}
        if not self.critical.hold(publication, users, partial(self._release, room, seq)):
            return False
        room.held.append(seq)
        return True

    def _release(self, room: Room, seq: int) -> None:
        """A publication that was held may go now, and what follows it up to the next one that is held."""
        if seq in room.held:
            room.held.remove(seq)
            self._enter(room)

    def _enter(self, room: Room) -> None:
        if not room.queued and room.served < room.ready:
            room.queued = True
            self._queue.append(room)
            self._work.set()

    def run(self) -> None:
        """Serve the rooms in turns; one greenlet runs this."""
        while True:
            self._work.wait()
            self._work.clear()
            while self._queue:
                room = self._queue.popleft()
                room.queued = False
                self._step(room)
                self._enter(room)
                gevent.sleep(0)

    def _step(self, room: Room) -> None:
        part = room.slice
        if part is None:
            if room.served >= room.ready:
                return
            part = room.slice = Slice(room.live(), _goal(room, room.served))
        self._serve_to(room, part.take(SLICE), part.goal)
        if part.done:
            room.served, room.slice = max(room.served, part.goal), None

    def finish(self, room: Room) -> None:
        """Serve now what still waits in a room for its turn."""
        while room.served < room.ready:
            self._step(room)

    def began_again(self, room: Room, seq: int) -> None:
        """The room stands at `seq` now, in whatever epoch."""
        room.log.reset(seq)
        room.held.clear()
        room.served, room.slice = seq, None

    def suspend(self, sub: Subscription) -> None:
        """Send nothing of the room to a member while it recovers."""
        sub.state = State.RECOVERING
        sub.room.changed()
        if sub.behind:
            self.throttler.drop(sub.session.user_id, sub.session.sid, sub.room.name)

    def resume(self, sub: Subscription) -> None:
        """The recovery failed: a member that was suspended is one again, as far behind as it was."""
        if sub.behind:
            self.flusher.fall_behind(sub, self._clock())
        self.catch_up(sub)

    def catch_up(self, sub: Subscription) -> None:
        """Bring a subscription that has just become live to where its room stands, without what it has ahead."""
        room, ready = sub.room, sub.room.ready
        while sub.state is State.LIVE and not sub.behind and sub.sent < ready:
            if sub.ahead and sub.sent + 1 in sub.ahead:
                sub.sent += 1
                continue
            goal = _goal(room, sub.sent)
            self._serve_to(room, (sub,), min(goal, *(seq - 1 for seq in sub.ahead if seq > sub.sent))
                           if sub.ahead else goal)
        if not sub.behind:
            sub.ahead = None

    def replay(self, session: Session, run: Sequence[tuple[str, Publication]]) -> None:
        """Send publications that a session had missed, each with the room it comes through, in one piece."""
        send_joined(session, [single_frame(publication, session.profile, room) for room, publication in run],
                    self.squeeze)
        for room, publication in run:
            self.had.add(publication, room, (session,))
            if self.ledger is not None:
                self.ledger.owed(session.id, publication.id, room, publication.seq(room), publication.entity)
                self.ledger.delivered(session.id, publication.id)

    def skip(self, session: Session, shed: Shed, skipped: Sequence[Publication]) -> None:
        """Report to a session what it missed and is not sent."""
        self.metrics.shed += shed.count
        session.peer.push(Frame(packet("shed", shed.told())))
        if self.ledger is not None:
            for publication in skipped:
                self.ledger.owed(session.id, publication.id, shed.room, publication.seq(shed.room), publication.entity)
            self.ledger.shed(session.id, shed.room, shed.first, shed.last, shed.reason)

    def moved(self, session: Session, room: str, frame: Frame) -> None:
        """Report to a session that a room continues elsewhere: the `resync`."""
        session.peer.push(frame)
        if self.ledger is not None:
            self.ledger.told(session.id, room, "resync")

    # -- unrecorded

    def serve_unrecorded(self, publication: Publication) -> None:
        """Pass a publication to this worker's members while the broker is away, but to those who have it: its record
        may have come though the answer did not.  When it comes back with a number, all of them are left out."""
        served: set[Session] = set()
        rooms = [room for place in publication.places if (room := self.registry.rooms.get(place.room)) is not None]
        for room in rooms:
            if room.log.holds(publication.id):
                served.update(sub.session for sub in room.live())
        before = len(served)
        for room in rooms:
            for sub in room.live():
                if sub.session not in served:
                    served.add(sub.session)
                    sub.session.peer.push(single_frame(publication, sub.session.profile, room.name))
                    if self.ledger is not None:
                        self.ledger.owed(sub.session.id, publication.id, room.name, 0, publication.entity)
                        self.ledger.delivered(sub.session.id, publication.id)
        self.metrics.sent += len(served) - before
        if publication.critical and self.critical is not None:
            self.critical.later(publication, {session.user_id for session in served})
        self.had.remember(publication, served)

    # -- sockets

    def _serve_to(self, room: Room, subs: Sequence[Subscription], goal: int) -> None:
        self._serve(room, subs, goal, room.log.at(goal).publication, room.log.next_special(goal - 1) == goal)

    def _serve(self, room: Room, subs: Sequence[Subscription], goal: int, publication: Publication,
               special: bool) -> None:
        """Bring members to `goal`, where `publication` stands, each from its cursor.  A special one is a pass of its
        own."""
        if special:
            subs = self._who_gets(room, room.log.at(goal), subs)
        now, serial, live = self._clock(), publication.id, State.LIVE
        bypass = publication.lane is Lane.CRITICAL
        encoded: dict[int, tuple[bytes, int]] = {}
        served, before = 0, goal - 1
        for sub in subs:
            cursor = sub.sent
            if sub.state is not live or cursor >= goal or sub.behind:
                continue
            if cursor != before and not bypass:
                granted = 0 if cursor + 1 < room.log.first else sub.queue.admits_some(
                    (serial, goal - cursor), goal - cursor, now)
                if cursor + granted < goal:
                    self._send_some(sub, cursor + granted, now)
                    served += granted
                    continue
            elif not (bypass or sub.queue.admits(serial, now)):
                self.flusher.fall_behind(sub, now)
                continue
            send = sub.send
            if send is not None:
                data, size = (encoded.get(cursor * VARIANTS + sub.variant)
                              or self._encode(encoded, sub, goal, publication))
                try:
                    sent = send(data)
                    if sent != size:
                        sub.box.rest(data, sent)
                except (OSError, ValueError) as error:
                    sub.box.trouble(data, error)
            elif sub.box is not None and sub.box.crowded and not bypass:
                self.flusher.fall_behind(sub, now)
                continue
            else:
                self._push(sub, goal)
            sub.sent = goal
            sub.count += goal - cursor
            served += goal - cursor
        if served:
            self._count(publication, served)
        if self.ledger is not None:
            self._account(room, subs, goal)

    def _who_gets(self, room: Room, entry: LogEntry, subs: Sequence[Subscription]) -> Sequence[Subscription]:
        """Those who get a special publication through this room; the cursors of the others pass over it.  One of the
        lane that does not wait goes out ahead to those who are behind."""
        publication, seq, name = entry.publication, entry.seq, room.name
        getting: list[Subscription] = []
        for sub in subs:
            if sub.state is not State.LIVE or sub.sent >= seq:
                continue
            gets = sub.session not in entry.had and not sub.session.gets_through_another(publication, name)
            if sub.behind:
                if gets and publication.lane is Lane.CRITICAL and not (sub.ahead and seq in sub.ahead):
                    sub.ahead = (sub.ahead or set()) | {seq}
                    self._send_ahead(sub, publication)
            elif sub.sent < seq - 1 or gets:
                getting.append(sub)
            else:
                sub.sent = seq
        return getting

    def _send_ahead(self, sub: Subscription, publication: Publication) -> None:
        sub.session.peer.push(single_frame(publication, sub.session.profile, sub.room.name))
        sub.count += 1
        self._count(publication, 1)

    def _send_some(self, sub: Subscription, to: int, now: float) -> None:
        """The tokens are for no more than these; the member is behind with the others."""
        sub.count += to - sub.sent
        self._push(sub, to)
        self.flusher.fall_behind(sub, now)

    def _push(self, sub: Subscription, to: int) -> None:
        """The way for those who cannot be written to directly: polling, a stream, a connection being made."""
        for entry in sub.room.log.after(sub.sent, to):
            sub.sent = entry.seq
            sub.session.peer.push(single_frame(entry.publication, sub.session.profile, sub.room.name))

    def _encode(self, encoded: dict[int, tuple[bytes, int]], sub: Subscription, goal: int,
                publication: Publication) -> tuple[bytes, int]:
        """The bytes from a cursor to `goal` for one profile, compressed or not: what all receivers of that variant
        share who stand there."""
        name, profile, squeezed = sub.room.name, sub.session.profile, sub.variant >= PROFILES
        if sub.sent == goal - 1:
            frame = single_frame(publication, profile, name)
            data = frame.squeezed(self.squeeze) if squeezed else frame.ws
        else:
            data = joined([single_frame(entry.publication, profile, name)
                           for entry in sub.room.log.after(sub.sent, goal)], self.squeeze if squeezed else None)
        found = encoded[sub.sent * VARIANTS + sub.variant] = data, len(data)
        return found

    def _count(self, publication: Publication, served: int) -> None:
        self.metrics.sent += served
        self.metrics.delivered += served
        self.metrics.took(max(0.0, time.time() * 1000 - made_ms(publication.id)), served)

    # -- the ledger

    def _account(self, room: Room, subs: Sequence[Subscription], goal: int) -> None:
        assert self.ledger is not None
        entries = room.log.after(goal - JOINED, goal)
        for sub in subs:
            if sub.state is not State.LIVE or sub.behind or sub.sent < goal:
                continue
            for entry in entries:
                if (sub.session not in entry.had
                        and not sub.session.gets_through_another(entry.publication, room.name)):
                    self.ledger.delivered(sub.session.id, entry.publication.id)


def _goal(room: Room, since: int) -> int:
    """How far one send from a cursor goes: ordinary publications together, a special one by itself."""
    goal = min(room.ready, max(since, room.log.first - 1) + JOINED)
    special = room.log.next_special(since)
    if not special or special > goal:
        return goal
    return special if special == since + 1 else special - 1
