"""A publication of a room to its members: bucket, frame, send().

A publication is encoded once per client profile and room; all that read share the bytes.  A room with many members is
served in slices between which everybody else gets a turn; what was published meanwhile goes to each member in one
send.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import gevent
from gevent.event import Event

from wsapp.core.events import Lane, Profile, Publication, packet
from wsapp.core.ids import made_ms
from wsapp.core.lanes import SHED_SNAPSHOTS, Batch, Shed, Waiting, coalesce
from wsapp.core.registry import Registry, Room, Turn
from wsapp.core.session import PROFILES, Session, State, Subscription
from wsapp.core.throttle import EventThrottler
from wsapp.metrics import Metrics
from wsapp.runtime.batches import batch_frames, send_joined, single_frame
from wsapp.runtime.critical import CriticalDelivery
from wsapp.runtime.turns import Turns
from wsapp.runtime.unrecorded import Unrecorded
from wsapp.transport.frames import Frame, Squeeze, joined
from wsapp.transport.outbox import RELIEVED

VARIANTS: Final = 2 * PROFILES  # each profile, plain and compressed
FEW: Final = 16  # members that are served on the spot: to wait for more that could go with it does not pay
RECENT: Final = 1000  # live records remembered, for a publish whose record came and whose answer did not
MOST_UNTOLD: Final = 100  # separate runs of shed events kept for a client that does not read


class Fanout:
    """The way from a publication to the sockets of one worker."""

    def __init__(self, registry: Registry, throttler: EventThrottler, metrics: Metrics,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.registry, self.throttler, self.metrics, self._clock = registry, throttler, metrics, clock
        self.turns = Turns(self._serve_turn, self._may_go)
        self.unrecorded = Unrecorded()
        self._recent: deque[tuple[str, str]] = deque(maxlen=RECENT)  # (room, id)
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
        self._recent.append((room.name, publication.id))
        for sub in room.recovering():
            if sub.join is not None:
                sub.join.hold(publication, seq)
        held = publication.critical and self._hold(room, publication)
        live = room.live()
        if not live:
            return
        if not (held or self.turns.queue or room.pending) and len(live) <= FEW:
            self._serve(room, publication, seq, live)
        else:
            self.turns.add(room, publication, seq, live, joins=self._joins(room, publication))

    def _joins(self, room: Room, publication: Publication) -> bool:
        """Whether it may go out in one send with others: every member gets it through this room, and none has it."""
        return (publication.lane is not Lane.CRITICAL and not publication.critical
                and publication.places[0].room == room.name
                and not self.unrecorded.holds(publication))

    def _hold(self, room: Room, publication: Publication) -> bool:
        """Whether the room waits until a critical publication is kept; what follows it there waits behind it."""
        if self.critical is None:
            return False
        served = self.unrecorded.served(publication)  # it is kept for these as they know it
        users = {session.user_id for session in room.members if session not in served}
        return self.critical.hold(publication, users, partial(self.turns.release, room, publication))

    def _may_go(self, publication: Publication) -> bool:
        return self.critical is None or publication not in self.critical.holding

    def serve_one(self, sub: Subscription, publication: Publication, seq: int) -> None:
        """Pass one publication to one subscription, as a fan-out would."""
        self._serve(sub.room, publication, seq, (sub,))

    def replay(self, session: Session, run: Sequence[tuple[str, Publication]]) -> None:
        """Send publications that a session had missed, each with the room it comes through, in one piece."""
        frames = [self.frame(publication, session.profile, room) for room, publication in run]
        send_joined(session, frames, self.squeeze)

    def skip(self, session: Session, shed: Shed, _skipped: Sequence[Publication]) -> None:
        """Tell a session what it missed and is not sent."""
        self.metrics.shed += shed.count
        session.peer.push(Frame(packet("shed", shed.told())))

    def has_had(self, _session: Session, _publication: Publication) -> bool:
        """Whether a session has it already through a room that the record does not name."""
        return False

    def moved(self, session: Session, room: str, frame: Frame) -> None:
        """Tell a session that a room goes on elsewhere: the `resync`."""
        session.peer.push(frame)

    def _serve_turn(self, room: Room, turn: Turn, members: Sequence[Subscription]) -> None:
        if len(turn.items) > 1:
            members = self._serve_joined(room, turn, members)
        if members:
            for publication, seq in turn.items:
                self._serve(room, publication, seq, members)

    # -- unrecorded

    def serve_unrecorded(self, publication: Publication) -> None:
        """Pass a publication to this worker's members while the broker is away, but to those who have it: its record
        may have come though the answer did not.  When it comes back with a number, all of them are left out."""
        served: set[Session] = set()
        rooms = [room for place in publication.places if (room := self.registry.rooms.get(place.room)) is not None]
        for room in rooms:
            if (room.name, publication.id) in self._recent:
                served.update(sub.session for sub in room.live())
        had = len(served)
        for room in rooms:
            for sub in room.live():
                if sub.session not in served:
                    served.add(sub.session)
                    sub.session.peer.push(self.frame(publication, sub.session.profile, room.name))
        self.metrics.sent += len(served) - had
        if publication.critical and self.critical is not None:
            self.critical.later(publication, {session.user_id for session in served})
        self.unrecorded.remember(publication, served)

    # -- sockets

    def _serve(self, room: Room, publication: Publication, seq: int, subs: Sequence[Subscription]) -> None:
        if self.unrecorded:
            subs = self.unrecorded.others(publication, seq, subs)
        now = self._clock()
        name, serial, bypass = room.name, publication.id, publication.lane is Lane.CRITICAL
        earlier = earlier_rooms(publication, name)
        encoded: list[tuple[bytes, int] | None] = [None] * VARIANTS
        served, live = 0, State.LIVE
        for sub in subs:
            if sub.state is not live or sub.sent >= seq:
                continue  # it has left meanwhile, or has read that far in the history
            sub.sent = seq
            if earlier and comes_through(sub.session, earlier):
                continue  # it has come, or comes, through the other room
            if not (bypass or sub.queue.admits(serial, now)):
                self._defer(sub, publication, seq, now)
                continue
            send = sub.send
            if send is not None:
                data, size = encoded[sub.variant] or self._encode(encoded, publication, sub, name)
                try:
                    sent = send(data)
                    if sent != size:
                        sub.box.rest(data, sent)
                except (OSError, ValueError) as error:
                    sub.box.trouble(data, error)
            elif sub.box is not None and sub.box.crowded and not bypass:
                self._defer(sub, publication, seq, now)
                continue
            else:
                self._push(sub, publication)
            sub.count += 1
            served += 1
        self._count(publication, served)

    def _serve_joined(self, room: Room, turn: Turn, subs: Sequence[Subscription]) -> list[Subscription]:
        """Send what waited for its turn in one piece to each who takes all of it now; returns the others."""
        now, count = self._clock(), len(turn.items)
        (head, first), (_, last) = turn.items[0], turn.items[-1]
        serial = f"{head.id}+{count}"
        encoded: list[tuple[bytes, int] | None] = [None] * VARIANTS
        others: list[Subscription] = []
        served = 0
        for sub in subs:
            if sub.state is not State.LIVE or sub.sent >= first or not sub.queue.admits_all(serial, count, now):
                others.append(sub)
                continue
            send = sub.send
            if send is None:
                self._pass_singly(sub, turn, now)
                continue
            data, size = encoded[sub.variant] or self._join(encoded, turn, sub, room.name)
            try:  # written out as in `_serve`: no call of ours between the loop and the kernel
                sent = send(data)
                if sent != size:
                    sub.box.rest(data, sent)
            except (OSError, ValueError) as error:
                sub.box.trouble(data, error)
            sub.sent = last
            sub.count += count
            served += 1
        for publication, _seq in turn.items:
            self._count(publication, served)
        return others

    def _pass_singly(self, sub: Subscription, turn: Turn, now: float) -> None:
        """For one who was admitted, but cannot be written to directly."""
        for publication, seq in turn.items:
            sub.sent = seq
            if sub.box is not None and sub.box.crowded:
                self._defer(sub, publication, seq, now)
                continue
            self._push(sub, publication)
            sub.count += 1
            self._count(publication, 1)

    def _join(self, encoded: list[tuple[bytes, int] | None], turn: Turn, sub: Subscription,
              room: str) -> tuple[bytes, int]:
        """As `_encode`, of several publications one after the other."""
        frames = [self.frame(publication, sub.session.profile, room) for publication, _seq in turn.items]
        data = joined(frames, self.squeeze if sub.variant >= PROFILES else None)
        encoded[sub.variant] = data, len(data)
        return data, len(data)

    def _push(self, sub: Subscription, publication: Publication) -> None:
        """The way for those who cannot be written to directly: polling, a full outbox, a connection being made."""
        sub.session.peer.push(self.frame(publication, sub.session.profile, sub.room.name))

    def _encode(self, encoded: list[tuple[bytes, int] | None], publication: Publication, sub: Subscription,
                room: str) -> tuple[bytes, int]:
        """The bytes for one profile, compressed or not: what all receivers of that variant share."""
        frame = self.frame(publication, sub.session.profile, room)
        data = frame.squeezed(self.squeeze) if sub.variant >= PROFILES else frame.ws
        encoded[sub.variant] = data, len(data)
        return data, len(data)

    def _count(self, publication: Publication, served: int) -> None:
        if served:
            self.metrics.sent += served
            self.metrics.delivered += served
            self.metrics.took(max(0.0, time.time() * 1000 - made_ms(publication.id)), served)

    def frame(self, publication: Publication, profile: Profile, room: str) -> Frame:
        """The shared frame of a publication for all clients of a profile that get it through a room."""
        return single_frame(publication, profile, room)

    def _defer(self, sub: Subscription, publication: Publication, seq: int, now: float) -> None:
        self.metrics.deferred += 1
        session, size = sub.session, len(publication.body)
        if sub.box is not None and sub.box.crowded:
            self._fall_behind(sub, size)
            if sub.box.far_behind and publication.lane is not Lane.STATE:
                self._tell_shed(session.user_id, session.sid, [
                    Shed(sub.room.name, seq, seq, 1, SHED_SNAPSHOTS, publication.priority)])
                return
        self.throttler.defer(session.user_id, session.sid, Waiting(
            publication.event, publication.priority, publication.lane, publication.entity, sub.room.name, seq,
            publication.id, publication, size, now))
        self._waiting_flush.set()

    def _fall_behind(self, sub: Subscription, size: int) -> None:
        """So much more is held back from a client that does not read; it takes the steps of the ladder down."""
        box, session = sub.box, sub.session
        if not box.lagging:
            self.metrics.count("slowDeferred")
        was = box.far_behind
        box.lag(size)
        if box.far_behind and not was:
            self.metrics.count("slowSnapshots")
            self.throttler.keep_states(session.user_id, session.sid)

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
        for frame, count in batch_frames(batches, session.profile):
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
