"""From a record off the broker to bytes on sockets.

    record -> the room's track (duplicate? hole? new epoch?) -> its members -> bucket -> frame -> send()

A publication is encoded once per client profile and room; all that read share the bytes.  A room with many members is
served in slices between which everybody else gets a turn.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

import gevent
from gevent.event import Event

from wsapp.core.events import Lane, Position, Profile, Publication, packet, parse_record
from wsapp.core.history import Join, More, Reason, Recovered, Refused, Verdict
from wsapp.core.lanes import Batch, Shed, Waiting
from wsapp.core.ports import Broker, HistoryPage
from wsapp.core.registry import Registry, Room
from wsapp.core.session import Session, State, Subscription, Tail
from wsapp.core.throttle import EventThrottler
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime.batches import batch_frames
from wsapp.transport.frames import Frame, Squeeze
from wsapp.transport.outbox import RELIEVED

log = logging.getLogger(__name__)

PROFILES: Final = len(Profile)
VARIANTS: Final = 2 * PROFILES  # each profile, plain and compressed
SLICE: Final = 256  # members served before other rooms and clients get their turn
UNRECORDED_LIMIT: Final = 20_000  # publications remembered that were served before they were recorded
PAGE: Final = 1000  # publications of one history read
HEAL_PAUSE: Final = 0.5  # seconds between attempts to read history while the broker is away


class Delivery:
    """The fan-out of one worker."""

    def __init__(self, registry: Registry, throttler: EventThrottler, broker: Broker, metrics: Metrics, *,
                 max_replay: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry, self.throttler, self.broker, self.metrics = registry, throttler, broker, metrics
        self.max_replay, self._clock = max_replay, clock
        self._queue: deque[Room] = deque()
        self._unrecorded: OrderedDict[str, set[Session]] = OrderedDict()
        self._work = Event()
        self._waiting_flush = Event()
        throttler.on_emit(self._emit)
        throttler.on_shed(self._tell_shed)
        throttler.ready = self._reads
        self.squeeze: Squeeze = _plain
        self.session_of: Callable[[str], Session | None] = lambda _sid: None

    # -- from the broker

    def on_record(self, name: str, record: bytes) -> None:
        """A live record of a room, in order."""
        room = self.registry.rooms.get(name)
        if room is None:
            return
        publication = parse_record(record)
        for place in publication.places:
            if place.room == name:
                self._offer(room, publication, place.seq, place.epoch)
                return

    def on_gap(self) -> None:
        """Live records may have been lost: every room reads on from where it stands."""
        for room in list(self.registry.rooms.values()):
            if room.open and room.join is None:
                self._heal(room)

    def verify(self, room: Room, head: Position) -> None:
        """The broker says that the room's head is `head`: read on unless the worker has come that far."""
        if room.open and room.join is None and behind(room.track.position, head):
            if not room.track.epoch:  # its very first publication was lost
                room.track.reset(Position(head.epoch, 0))
            self._heal(room)

    def _offer(self, room: Room, publication: Publication, seq: int, epoch: str) -> None:
        if room.join is not None:
            room.join.hold(publication, seq)
            return
        if not room.open:
            return
        if not room.track.epoch:  # nothing had ever been published here
            room.track.reset(Position(epoch, 0))
        verdict = room.track.offer(seq, epoch)
        if verdict is Verdict.DELIVER:
            self._pass_on(room, publication, seq)
        elif verdict is not Verdict.DUPLICATE:
            self._heal(room)
            if room.join is not None:
                room.join.hold(publication, seq)

    def _pass_on(self, room: Room, publication: Publication, seq: int) -> None:
        for sub in room.recovering():
            if sub.join is not None:
                sub.join.hold(publication, seq)
        live = room.live()
        if not live:
            return
        if not self._queue and not room.pending and len(live) <= SLICE:
            self._serve(room, publication, seq, live)
            return
        room.pending.append((publication, seq, live, 0))
        if len(room.pending) == 1:
            self._queue.append(room)
            self._work.set()

    # -- healing

    def _heal(self, room: Room) -> None:
        """Read what is missing after the worker's position and go on in order; clients never notice."""
        self._heal_from(room, room.track.position)

    def _heal_from(self, room: Room, position: Position) -> None:
        room.join = Join(room.name, position, max_replay=self.max_replay)
        gevent.spawn(self._healing, room, room.join)

    def _healing(self, room: Room, join: Join) -> None:
        step = self._read_until_done(room, join)
        if step is None:
            room.join = None
        elif isinstance(step, Recovered):
            room.join = None
            room.track.reset(step.position)
            self.metrics.healed += len(step.publications)
            for publication in step.publications:
                self._pass_on(room, publication, publication.seq(room.name))
        else:
            self._healing_failed(room, step)

    def _read_until_done(self, room: Room, join: Join) -> Recovered | Refused | None:
        """None when nobody is left to heal for."""
        while room.members:
            try:
                step = join.page(self.broker.read([join.query(PAGE)])[0])
            except BrokerUnavailable as error:
                log.warning("%s waits for its history: %s", room.name, error)
                gevent.sleep(HEAL_PAUSE)
                continue
            if not isinstance(step, More):
                return step
        return None

    def _healing_failed(self, room: Room, refused: Refused) -> None:
        log.warning("%s cannot be healed: %s, %d missed", room.name, refused.reason, refused.missed)
        if refused.reason is Reason.EPOCH:
            # All of the new history is news to everybody here: it follows the resync from its beginning.
            start = Position(refused.position.epoch, 0)
            room.track.reset(start)
            self._resync(room, start, refused)
            self._heal_from(room, start)
            return
        room.join = None
        room.track.reset(refused.position)
        self._resync(room, refused.position, refused)

    def _resync(self, room: Room, position: Position, refused: Refused) -> None:
        """Tell every member that its view of the room has a hole that cannot be filled, and where it goes on."""
        frame = Frame(packet("resync", {"room": room.name, "epoch": position.epoch, "seq": position.seq,
                                        "reason": str(refused.reason), "missed": refused.missed}))
        for sub in room.members.values():
            if isinstance(sub.join, Tail):  # what it holds is of the past
                sub.join.held.clear()
            elif sub.state is not State.LIVE:
                continue  # its own reading will tell it
            sub.started(position.seq)
            sub.session.dirty = True
            sub.session.peer.push(frame)
        room.pending.clear()

    # -- opening rooms

    def open_rooms(self, rooms: Sequence[Room]) -> None:
        """Make the worker follow rooms: subscribe first, then read where they stand.  Returns when all are open, one
        round trip each for all of them.  Raises BrokerUnavailable."""
        fresh = [room for room in rooms if not room.open and room.join is None]
        if fresh:
            self._open(fresh)
        deadline = self._clock() + 1.0
        for room in rooms:
            while not room.open and room.join is not None and self._clock() < deadline:
                gevent.sleep(0.001)
            if not room.open:
                raise BrokerUnavailable(f"{room.name} could not be opened: Redis did not answer; try again")

    def _open(self, rooms: list[Room]) -> None:
        joins = {}
        for room in rooms:
            room.join = joins[room.name] = Join(room.name, None)
        try:
            self.broker.subscribe([room.name for room in rooms])
            left = list(rooms)
            while left:
                pages = self.broker.read([joins[room.name].query(PAGE) for room in left])
                left = [room for room, page in zip(left, pages, strict=True) if not self._opened(room, joins, page)]
        finally:
            for room in rooms:
                if room.join is joins[room.name]:
                    room.join = None

    def _opened(self, room: Room, joins: dict[str, Join], page: HistoryPage) -> bool:
        step = joins[room.name].page(page)
        if isinstance(step, More):
            return False
        room.join = None
        room.track.reset(step.position)
        room.open = True
        return True

    def close_vacant(self) -> None:
        """Stop following rooms in which nobody is any more."""
        vacant = [room for room in self.registry.vacant() if room.join is None]
        for room in vacant:
            self.registry.forget(room)
        opened = [room.name for room in vacant if room.open]
        if opened:
            self.broker.unsubscribe(opened)

    # -- the fan-out

    def run(self) -> None:
        """Serve rooms with many members in turns; one greenlet runs this."""
        while True:
            self._work.wait()
            self._work.clear()
            while self._queue:
                room = self._queue.popleft()
                if room.pending:
                    self._serve_slice(room)
                if room.pending:
                    self._queue.append(room)
                gevent.sleep(0)

    def serve_one(self, sub: Subscription, publication: Publication, seq: int) -> None:
        """Pass one publication to one subscription, as a fan-out would."""
        self._serve(sub.room, publication, seq, (sub,))

    def _serve_slice(self, room: Room) -> None:
        publication, seq, live, start = room.pending.popleft()
        end = start + SLICE
        if end < len(live):
            room.pending.appendleft((publication, seq, live, end))
        # Who has gone meanwhile must not come back into the throttle.
        self._serve(room, publication, seq, [sub for sub in live[start:end] if sub.session.subs])

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
        if len(self._unrecorded) >= UNRECORDED_LIMIT:
            self._unrecorded.popitem(last=False)
        self._unrecorded[publication.id] = served

    def _without_served(self, publication: Publication, seq: int,
                        subs: Sequence[Subscription]) -> Sequence[Subscription]:
        served = self._unrecorded.get(publication.id)
        if served is None:
            return subs
        for sub in subs:
            sub.sent = seq
        return [sub for sub in subs if sub.session not in served]

    def _serve(self, room: Room, publication: Publication, seq: int, subs: Sequence[Subscription]) -> None:
        if self._unrecorded:
            subs = self._without_served(publication, seq, subs)
        now = self._clock()
        name, serial, bypass = room.name, publication.id, publication.lane is Lane.CRITICAL
        earlier = _earlier(publication, name)
        encoded: list[tuple[bytes, int] | None] = [None] * VARIANTS
        served = 0
        for sub in subs:
            sub.sent = seq
            session = sub.session
            if earlier and _comes_through(session, earlier):
                continue  # it has come, or comes, through the other room
            if not (bypass or session.queue.admit(serial, now)):
                self._defer(session, room, publication, seq, now)
                continue
            box = session.peer.direct
            if box is None:
                session.peer.push(self.frame(publication, session.profile, name))
            elif (send := box.send) is not None:
                variant = session.profile + PROFILES * box.squeezed
                data, size = encoded[variant] or self._encode(encoded, variant, publication, session, name)
                try:
                    sent = send(data)
                    if sent != size:
                        box.rest(data, sent)
                except (OSError, ValueError) as error:
                    box.trouble(data, error)
            elif box.crowded and not bypass:
                box.lag(len(publication.body))
                self._defer(session, room, publication, seq, now)
                continue
            else:
                session.peer.push(self.frame(publication, session.profile, name))
            session.sent += 1
            served += 1
        self._count(publication, served)

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
        key = (profile, room)
        frame: Frame | None = publication.texts.get(key)
        if frame is None:
            frame = publication.texts[key] = Frame(publication.text(profile, room))
        return frame

    def _defer(self, session: Session, room: Room, publication: Publication, seq: int, now: float) -> None:
        self.metrics.deferred += 1
        self.throttler.defer(session.user_id, session.sid, Waiting(
            publication.event, publication.priority, publication.lane, publication.entity, room.name, seq,
            publication.id, publication, len(publication.body), now))
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
        if session is not None:
            for shed in sheds:
                session.peer.push(Frame(packet("shed", shed.told())))


def behind(position: Position, head: Position) -> bool:
    """Whether `head` is news to somebody who stands at `position`."""
    return position.epoch != head.epoch or position.seq < head.seq


def _earlier(publication: Publication, name: str) -> frozenset[str]:
    """Rooms of the publication that are served before `name`: a client in one of them has it from there."""
    if publication.places[0].room == name:
        return frozenset()
    names = [place.room for place in publication.places]
    return frozenset(names[:names.index(name)])


def _comes_through(session: Session, earlier: frozenset[str]) -> bool:
    """Whether one of the rooms passes it on to the session.  A room that is only being opened for it does not: it will
    stand behind what comes meanwhile."""
    return any(name in earlier and (sub.state is State.LIVE or sub.join is not None)
               for name, sub in session.subs.items())


def _plain(_payload: bytes) -> None:
    return None


def published_ms(publication: Publication) -> float:
    """When the broker took it, in ms of its clock: the id is a hybrid clock of 1024 steps a millisecond."""
    return int(publication.id[:14], 16) / 1024
