"""A publication of a room to its members: bucket, frame, send().

A publication is encoded once per client profile and room; all that read share the bytes.  A room with many members is
served in slices between which everybody else gets a turn.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import gevent
from gevent.event import Event

from wsapp.core.events import Lane, Profile, Publication, packet
from wsapp.core.lanes import Batch, Shed, Waiting, coalesce
from wsapp.core.registry import Registry, Room
from wsapp.core.session import Session, State, Subscription
from wsapp.core.throttle import EventThrottler
from wsapp.metrics import Metrics
from wsapp.runtime.batches import batch_frames, single_frame
from wsapp.runtime.critical import CriticalDelivery
from wsapp.transport.frames import Frame, Squeeze
from wsapp.transport.outbox import RELIEVED

PROFILES: Final = len(Profile)
VARIANTS: Final = 2 * PROFILES  # each profile, plain and compressed
SLICE: Final = 256  # members served before other rooms and clients get their turn
UNRECORDED_LIMIT: Final = 20_000  # publications remembered that were served before they were recorded
MOST_UNTOLD: Final = 100  # separate runs of shed events kept for a client that does not read


class Fanout:
    """The way from a publication to the sockets of one worker."""

    def __init__(self, registry: Registry, throttler: EventThrottler, metrics: Metrics,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.registry, self.throttler, self.metrics, self._clock = registry, throttler, metrics, clock
        self._queue: deque[Room] = deque()
        self._unrecorded: OrderedDict[str, set[Session]] = OrderedDict()
        self._work = Event()
        self._waiting_flush = Event()
        throttler.on_emit(self._emit)
        throttler.on_shed(self._tell_shed)
        throttler.ready = self._reads
        self.squeeze: Squeeze = _plain
        self.session_of: Callable[[str], Session | None] = lambda _sid: None
        self.critical: CriticalDelivery | None = None

    # -- rooms

    def pass_on(self, room: Room, publication: Publication, seq: int) -> None:
        """A publication of a room, in its turn: held by members that still recover, served to the live ones."""
        for sub in room.recovering():
            if sub.join is not None:
                sub.join.hold(publication, seq)
        held = publication.critical and self._hold(room, publication)
        live = room.live()
        if not live:
            return
        if not held and not self._queue and not room.pending and len(live) <= SLICE:
            self._serve(room, publication, seq, live)
            return
        room.pending.append((publication, seq, live, 0))
        if len(room.pending) == 1 and not held:
            self._queue.append(room)
            self._work.set()

    def _hold(self, room: Room, publication: Publication) -> bool:
        """Whether the room waits until a critical publication is kept; what follows it there waits behind it."""
        if self.critical is None:
            return False
        served = self._unrecorded.get(publication.origin or publication.id, ())  # it is kept for these as they know it
        users = {session.user_id for session in room.members if session not in served}
        return self.critical.hold(publication, users, partial(self._release, room, publication))

    def _release(self, room: Room, publication: Publication) -> None:
        if room.pending and room.pending[0][0] is publication:
            self._queue.append(room)
            self._work.set()

    def _may_serve(self, room: Room) -> bool:
        return bool(room.pending) and (self.critical is None or room.pending[0][0] not in self.critical.holding)

    def run(self) -> None:
        """Serve rooms with many members in turns; one greenlet runs this."""
        while True:
            self._work.wait()
            self._work.clear()
            while self._queue:
                room = self._queue.popleft()
                if self._may_serve(room):
                    self._serve_slice(room)
                if self._may_serve(room):
                    self._queue.append(room)
                gevent.sleep(0)

    def finish(self, room: Room) -> None:
        """Serve now what still waits for its turn in a room."""
        while room.pending:
            self._serve_slice(room)

    def serve_one(self, sub: Subscription, publication: Publication, seq: int) -> None:
        """Pass one publication to one subscription, as a fan-out would."""
        self._serve(sub.room, publication, seq, (sub,))

    def replay(self, session: Session, publication: Publication, room: str) -> None:
        """Send a publication that a session had missed."""
        session.peer.push(self.frame(publication, session.profile, room))

    def moved(self, session: Session, room: str, frame: Frame) -> None:
        """Tell a session that a room goes on elsewhere: the `resync`."""
        session.peer.push(frame)

    def _serve_slice(self, room: Room) -> None:
        publication, seq, live, start = room.pending.popleft()
        end = start + SLICE
        if end < len(live):
            room.pending.appendleft((publication, seq, live, end))
        self._serve(room, publication, seq, live[start:end])

    # -- unrecorded

    def serve_unrecorded(self, publication: Publication) -> None:
        """Pass a publication to this worker's members while the broker is away.  When it comes back with a number,
        those who have it are left out."""
        served: set[Session] = set()
        for place in publication.places:
            room = self.registry.rooms.get(place.room)
            for sub in room.live() if room is not None else ():
                if sub.session not in served:
                    served.add(sub.session)
                    sub.session.peer.push(self.frame(publication, sub.session.profile, place.room))
        self.metrics.sent += len(served)
        if publication.critical and self.critical is not None:
            self.critical.later(publication, {session.user_id for session in served})
        if len(self._unrecorded) >= UNRECORDED_LIMIT:
            self._unrecorded.popitem(last=False)
        self._unrecorded[publication.origin or publication.id] = served

    def _without_served(self, publication: Publication, seq: int,
                        subs: Sequence[Subscription]) -> Sequence[Subscription]:
        served = self._unrecorded.get(publication.origin or publication.id)
        if served is None:
            return subs
        for sub in subs:
            sub.sent = seq
        return [sub for sub in subs if sub.session not in served]

    # -- sockets

    def _serve(self, room: Room, publication: Publication, seq: int, subs: Sequence[Subscription]) -> None:
        if self._unrecorded:
            subs = self._without_served(publication, seq, subs)
        now = self._clock()
        name, serial, bypass = room.name, publication.id, publication.lane is Lane.CRITICAL
        earlier = earlier_rooms(publication, name)
        encoded: list[tuple[bytes, int] | None] = [None] * VARIANTS
        served = 0
        for sub in subs:
            if sub.state is not State.LIVE:
                continue  # it has left meanwhile
            sub.sent = seq
            if earlier and comes_through(sub.session, earlier):
                continue  # it has come, or comes, through the other room
            if not (bypass or sub.queue.admits(serial, now)):
                self._defer(sub, publication, seq, now)
                continue
            box = sub.box
            if box is None:
                self._push(sub, publication)
            elif (send := box.send) is not None:
                variant = sub.profile + PROFILES * box.squeezed
                data, size = encoded[variant] or self._encode(encoded, variant, publication, sub.session, name)
                try:
                    sent = send(data)
                    if sent != size:
                        box.rest(data, sent)
                except (OSError, ValueError) as error:
                    box.trouble(data, error)
            elif box.crowded and not bypass:
                self._defer(sub, publication, seq, now)
                continue
            else:
                self._push(sub, publication)
            sub.count += 1
            served += 1
        self._count(publication, served)

    def _push(self, sub: Subscription, publication: Publication) -> None:
        """The way for those who cannot be written to directly: polling, a full outbox, a connection being made."""
        sub.session.peer.push(self.frame(publication, sub.session.profile, sub.room.name))

    def _encode(self, encoded: list[tuple[bytes, int] | None], variant: int, publication: Publication,
                session: Session, room: str) -> tuple[bytes, int]:
        """The bytes for one profile, compressed or not: what all receivers of that variant share."""
        frame = self.frame(publication, session.profile, room)
        data = frame.squeezed(self.squeeze) if variant >= PROFILES else frame.ws
        encoded[variant] = data, len(data)
        return data, len(data)

    def _count(self, publication: Publication, served: int) -> None:
        if served:
            self.metrics.sent += served
            self.metrics.delivered += served
            self.metrics.latency_sum += served * max(0.0, time.time() * 1000 - published_ms(publication))
            self.metrics.latency_count += served

    def frame(self, publication: Publication, profile: Profile, room: str) -> Frame:
        """The shared frame of a publication for all clients of a profile that get it through a room."""
        return single_frame(publication, profile, room)

    def _defer(self, sub: Subscription, publication: Publication, seq: int, now: float) -> None:
        self.metrics.deferred += 1
        session, size = sub.session, len(publication.body)
        if sub.box is not None and sub.box.crowded:
            sub.box.lag(size)
        self.throttler.defer(session.user_id, session.sid, Waiting(
            publication.event, publication.priority, publication.lane, publication.entity, sub.room.name, seq,
            publication.id, publication, size, now))
        self._waiting_flush.set()

    # -- the throttle

    def flush_forever(self) -> None:
        """Flush what waits, every flush interval while there is any; one greenlet runs this."""
        while True:
            due = self.throttler.next_flush
            if due is None:
                self._waiting_flush.clear()
                self._waiting_flush.wait()
                continue
            gevent.sleep(max(0.0, due - self._clock()))
            self.throttler.flush(self._clock())

    def _emit(self, _user_id: str, sid: str, batches: list[Batch]) -> None:
        session = self.session_of(sid)
        if session is None:
            return
        if session.untold:
            self._tell_untold(session)
        for frame, count in batch_frames(batches, session.profile, session.lanes() is None):
            session.peer.push(frame)
            session.sent += 1
            self.metrics.sent += 1
            self.metrics.delivered += count

    def _reads(self, sid: str) -> bool:
        """Whether a session takes what it is sent: one that is behind waits in its lanes until it has caught up."""
        session = self.session_of(sid)
        return session is None or session.peer.backlog() < RELIEVED

    def _tell_shed(self, _user_id: str, sid: str, sheds: list[Shed]) -> None:
        session = self.session_of(sid)
        self.metrics.shed += sum(shed.count for shed in sheds)
        if session is None:
            return
        session.untold = coalesce((session.untold or []) + sheds)
        if self._reads(sid) or len(session.untold) > MOST_UNTOLD:
            self._tell_untold(session)

    def _tell_untold(self, session: Session) -> None:
        """What was shed is told once the client reads again, runs joined."""
        untold, session.untold = session.untold or [], None
        for shed in untold:
            session.peer.push(Frame(packet("shed", shed.told())))


def earlier_rooms(publication: Publication, name: str) -> frozenset[str]:
    """Rooms of the publication that are served before `name`: a client in one of them has it from there."""
    if publication.places[0].room == name:
        return frozenset()
    names = [place.room for place in publication.places]
    return frozenset(names[:names.index(name)])


def comes_through(session: Session, earlier: frozenset[str]) -> bool:
    """Whether one of the rooms passes it on to the session.  A room that is only being opened for it does not: it will
    stand behind what comes meanwhile."""
    return any(name in earlier and (sub.state is State.LIVE or sub.join is not None)
               for name, sub in session.subs.items())


def _plain(_payload: bytes) -> None:
    return None


def published_ms(publication: Publication) -> float:
    """When the broker took it, in ms of its clock: the id is a hybrid clock of 1024 steps a millisecond."""
    return int(publication.id[:14], 16) / 1024
