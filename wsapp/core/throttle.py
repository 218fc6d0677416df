"""How fast a user is sent events: a token bucket per user and worker, counted in frames.

Under its rate an event leaves at once; over it, the user's receivers (one receiver is one session) are behind in its
room, and `flush` pays one token for one frame to each of them.  Nothing here does I/O, sleeps or reads a clock of its
own; nothing is safe against threads, and the callbacks must not block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from sys import maxsize
from typing import Final, Protocol, TypeVar

from wsapp.core.backlog import (
    EMPTY,
    SHED_BYTES,
    SHED_ITEMS,
    Backlog,
    Batch,
    Following,
    Shed,
    Waiting,
    classify,
    coalesce,
)
from wsapp.core.events import CRITICAL_PRIORITY, DEFAULT_PRIORITY, MAX_PRIORITY, MIN_PRIORITY, Lane, strict_dumps
from wsapp.errors import ErrorCode, PayloadError, RequestError

MIN_RATE: Final = 0.01  # per second: the time between two tokens has to be a number that clocks can add
_EARLY: Final = 1e-6  # seconds: so that a flush at exactly the due time is not lost to rounding
_PRUNED_AT_ONCE: Final = 4  # per new user: idle ones go faster than users come
MAX_FRAME_ITEMS: Final = 500  # events of one frame
DIRECT: Final = ""  # stands for the room of events that were sent to a user

T = TypeVar("T")
OnEmit = Callable[[str, str, list[Batch]], object]
OnShed = Callable[[str, str, list[Shed]], object]


class Bucket:
    """The generic cell rate algorithm (ITU-T I.371), a token bucket in one float.

    In any window of T seconds at most `burst + rate * T` are admitted (to within a microsecond of T).  `rate` is per
    second, `MIN_RATE` or more; 0 or infinity switches the limit off.  `burst` defaults to max(1, rate).
    Raises ValueError for another rate, NaN included, and for a burst below 1.
    """

    __slots__ = ("_due", "_interval", "_tolerance", "burst", "rate")

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self._due = -math.inf  # from when on the next one is admitted
        self._set(rate, burst)

    def _set(self, rate: float, burst: float | None) -> None:
        burst = max(1.0, rate) if burst is None else burst
        if not ((rate == 0 or rate >= MIN_RATE) and burst >= 1):
            raise ValueError(f"rate must be 0 or {MIN_RATE} or more, and burst 1 or more")
        unlimited = rate == 0 or math.isinf(rate) or math.isinf(burst)
        self.rate, self.burst = rate, burst
        self._interval = 0.0 if unlimited else 1.0 / rate
        self._tolerance = math.inf if unlimited else (burst - 1.0) * self._interval

    def admit(self, now: float) -> bool:
        """Spend a token if there is one."""
        due = self._due
        if now + _EARLY < due:
            return False
        full = now - self._tolerance
        self._due = (due if due > full else full) + self._interval
        return True

    def admit_all(self, count: int, now: float) -> bool:
        """Spend `count` tokens if there are as many, else none."""
        full = now - self._tolerance
        due = self._due if self._due > full else full
        if now + _EARLY < due + (count - 1) * self._interval:
            return False
        self._due = due + count * self._interval
        return True

    def spend(self, count: int, now: float) -> None:
        """Spend `count` tokens, also those that are not there yet: at most so many that the bucket is full again after
        twice the time that it takes from empty."""
        full = now - self._tolerance
        due = (self._due if self._due > full else full) + count * self._interval
        self._due = min(due, now + self._tolerance + self._interval)

    def admit_up_to(self, count: int, now: float) -> int:
        """Spend tokens for as many of `count` as there are; how many that were."""
        full = now - self._tolerance
        due = self._due if self._due > full else full
        if now + _EARLY < due:
            return 0
        granted = count if not self._interval else min(count, 1 + int((now + _EARLY - due) / self._interval))
        self._due = due + granted * self._interval
        return granted

    def next(self, now: float) -> float:
        """When the next is admitted: `now` if at once."""
        return max(now, self._due)

    def is_full(self, now: float) -> bool:
        """Whether the bucket is as good as new."""
        return self._due <= now - self._tolerance

    def retune(self, now: float, rate: float, burst: float | None = None) -> None:
        """Change the rate.  Tokens that were spent stay spent, so that changing it back and forth gains nothing;
        only after no limit at all the bucket is full.  Raises ValueError as the constructor does."""
        limited, tolerance, interval = self._interval > 0, self._tolerance, self._interval
        self._set(rate, burst)
        if limited and self._interval:
            spent = max(0.0, (self._due + tolerance - now) / interval)
            self._due = now + spent * self._interval - self._tolerance
        else:
            self._due = -math.inf


class Reader(Protocol):
    """The end of a connection, as far as the throttle needs it."""

    def reads(self) -> bool:
        """Whether the client takes a frame now: one whose send buffer is filled is waited for."""

    def lag(self, size: int) -> bool:
        """So many more bytes were held back because the client does not read.  True: it is so far behind that it gets
        states only."""


class Source(Protocol):
    """What a receiver may be behind in: a subscription, or the events that were sent to its user directly."""

    backlog: Backlog

    def gather(self, max_items: int, max_bytes: int) -> Following:
        """Take in what came since."""

    def caught_up(self) -> bool:
        """The backlog is empty.  False when more has come meanwhile."""


class Direct:
    """Events for one receiver alone: a log of one reader."""

    def __init__(self) -> None:
        self.backlog = EMPTY
        self._new: list[Waiting] = []

    def put(self, waiting: Waiting) -> None:
        """One more."""
        self._new.append(waiting)

    def gather(self, max_items: int, max_bytes: int) -> Following:
        """As `Source.gather`."""
        new, self._new = self._new, []
        found = self.backlog.following(new, max_items, max_bytes)
        self.backlog = found.backlog
        return found

    def caught_up(self) -> bool:
        """As `Source.caught_up`."""
        return not self._new


class Receiver:
    """One session of a user.  `merges`: one frame takes several groups.  `sources` are those that it is behind in, by
    room; at one level of urgency they take turns."""

    __slots__ = ("merges", "reader", "sources")

    def __init__(self, merges: bool = False, reader: Reader | None = None) -> None:
        self.merges, self.reader = merges, reader
        self.sources: dict[str, Source] = {}

    def reads(self) -> bool:
        """As `Reader.reads`."""
        return self.reader is None or self.reader.reads()

    def gather(self, max_items: int, max_bytes: int) -> tuple[list[Shed], int]:
        """Take in what came since, in all rooms together at most so much: what had to be shed for it, and how many
        events came."""
        sheds: list[Shed] = []
        came = count = 0
        for source in self.sources.values():
            found = source.gather(max_items, max_bytes)
            came += found.came
            count += found.count
            if found.sheds:
                sheds += found.sheds
        if self.reader is not None and came and not self.reader.reads() and self.reader.lag(came):
            for source in self.sources.values():
                found = source.backlog.only_states()
                source.backlog = found.backlog
                sheds += found.sheds
        if len(self.sources) > 1:
            sheds += self._shed(max_items, max_bytes)
        return (coalesce(sheds) if len(sheds) > 1 else sheds), count

    def _shed(self, max_items: int, max_bytes: int) -> list[Shed]:
        """A limit for each room is none for all of them."""
        depth, size = self.depth, sum(source.backlog.bytes for source in self.sources.values())
        if depth <= max_items and size <= max_bytes:
            return []
        reason = SHED_ITEMS if depth > max_items else SHED_BYTES
        victims: set[Waiting] = set()
        for waiting in sorted(self.waiting(), key=_worth):
            if depth <= max_items and size <= max_bytes:
                break
            victims.add(waiting)
            depth, size = depth - 1, size - waiting.size
        sheds: list[Shed] = []
        for source in self.sources.values():
            found = source.backlog.without(victims, reason)
            source.backlog = found.backlog
            sheds += found.sheds
        return sheds

    def take(self, now: float, max_items: int = MAX_FRAME_ITEMS) -> list[Batch]:
        """What goes out next for one token; rooms in which nothing is left are no sources any more."""
        batches: list[Batch] = []
        if len(self.sources) == 1:
            (room, source), = self.sources.items()
            batches, source.backlog = source.backlog.take(now, maxsize if self.merges else 1, max_items)
            if not source.backlog and source.caught_up():
                del self.sources[room]
            return batches
        while len(batches) < (maxsize if self.merges else 1) and max_items > 0:
            best = self._next(now)
            if best is None:
                break
            source = self.sources.pop(best)
            some, source.backlog = source.backlog.take(now, 1, max_items)
            batches += some
            max_items -= sum(len(batch.waits) for batch in some)
            if source.backlog or not source.caught_up():
                self.sources[best] = source  # the others first
        self.forget_empty()
        return batches

    def _next(self, now: float) -> str | None:
        best = 0
        found: str | None = None
        for room, source in self.sources.items():
            if source.backlog:
                level = source.backlog.level(now)
                if found is None or level > best:
                    best, found = level, room
        return found

    def forget_empty(self) -> None:
        """Rooms in which nothing is left are no sources any more."""
        for room in [room for room, source in self.sources.items() if not source.backlog and source.caught_up()]:
            del self.sources[room]

    @property
    def depth(self) -> int:
        """How many wait; merged ones are not counted."""
        return sum(len(source.backlog) for source in self.sources.values())

    def waiting(self) -> list[Waiting]:
        """All that wait, in order within each room and entity."""
        return [waiting for source in self.sources.values() for waiting in source.backlog.waits]


def _worth(waiting: Waiting) -> tuple[int, float]:
    return waiting.priority, waiting.since


# Shared by all users with nothing waiting: a fan-out looks at it for every member, and this one is always at hand.
_NOBODY: Final[dict[str, Receiver]] = {}


class UserQueue(Bucket):
    """One user on this worker.  `behind` has an entry for each receiver that is behind in something, no other;
    `receivers` has every registered one."""

    __slots__ = ("behind", "deferred", "events_sent", "granted", "receivers", "shed", "stamp")

    def __init__(self, rate: float, burst: float | None = None) -> None:
        super().__init__(rate, burst)
        self.stamp: object = None  # the last event that was decided on
        self.deferred = False      # and what was decided
        self.granted = 0           # how many of several
        self.behind = _NOBODY
        self.receivers: dict[str, Receiver] = {}
        self.events_sent = self.shed = 0

    def admits(self, serial: object, now: float) -> bool:
        """Whether the event leaves at once.  False: each receiver is `behind` from here.

        Decided once per event, for one token: as long as `serial` equals the one of the call before, the answer is
        the same for all of the user's receivers.  `serial` is kept (pass an id, not the event) and must not be None.
        False while anything waits, so that nothing overtakes.
        """
        if serial == self.stamp:
            return not self.deferred
        self.stamp = serial
        due = self._due  # what follows is `admit`, without its call: this is asked for every member of every event
        if self.behind or now + _EARLY < due:
            self.deferred = True
            return False
        full = now - self._tolerance
        self._due = (due if due > full else full) + self._interval
        self.deferred = False
        self.events_sent += 1
        return True

    def admits_some(self, serial: object, count: int, now: float) -> int:
        """As `admits`, of `count` events in a row: how many of them leave at once, the first ones."""
        if serial == self.stamp:
            return self.granted
        self.stamp = serial
        self.granted = 0 if self.behind else self.admit_up_to(count, now)
        self.deferred = self.granted < count
        self.events_sent += self.granted
        return self.granted

    @property
    def depth(self) -> int:
        """How many wait for the receiver that has most waiting."""
        return max((receiver.depth for receiver in self.behind.values()), default=0)


class EventThrottler:
    """The throttle of all users of a worker.

    `rate` events a second and user (0: no limit), with a burst of max(1, rate); what is over it waits, at most
    `max_items` events and `max_bytes` bytes for each receiver, and is flushed every `flush_interval` seconds by
    whoever calls `flush`.  Both durations in seconds of `clock`.
    """

    def __init__(self, rate: float = 10, flush_interval: float = 0.1, clock: Callable[[], float] = time.monotonic,
                 max_items: int = 1000, max_bytes: int = 1_000_000) -> None:
        Bucket(rate)
        if not (flush_interval > 0 and max_items >= 1 and max_bytes >= 1):
            raise ValueError("flush_interval, max_items and max_bytes must be positive")
        self.rate, self.flush_interval = rate, flush_interval
        self._clock, self.max_items, self.max_bytes = clock, max_items, max_bytes
        self._users: dict[str, UserQueue] = {}
        self._backlog: dict[str, UserQueue] = {}
        self._idle: dict[str, UserQueue] = {}  # without receivers; kept until their buckets are full again
        self._on_emit: list[OnEmit] = []
        self._on_shed: list[OnShed] = []
        self._flushed = -math.inf
        self._serial = self._gone_sent = 0
        self.deferred = 0  # events that a receiver did not get at once
        self._closed = False

    def on_emit(self, callback: OnEmit) -> OnEmit:
        """Call `callback(user_id, receiver, batches)` for each frame; usable as a decorator."""
        self._on_emit.append(callback)
        return callback

    def on_shed(self, callback: OnShed) -> OnShed:
        """Call `callback(user_id, receiver, sheds)` when a full queue had to drop something."""
        self._on_shed.append(callback)
        return callback

    def enqueue(self, user_id: str, type: str, data: Mapping[str, object], priority: int = DEFAULT_PRIORITY) -> None:
        """Send an event to a user: at once when the rate allows and nothing waits or the priority is 9 or 10, else
        when its turn comes, as `classify` says.

        It goes to each registered receiver of the user, to the receiver "" when there is none.  Raises PayloadError
        for data that is not JSON or a priority outside 0-10, RequestError (`draining`) after `shutdown`.
        """
        self._check_open()
        if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
            raise PayloadError("priority must be 0-10", {"priority": ["must be 0-10"]})
        size, now = _size(data), self._clock()
        user = self.user(user_id)
        self._serial += 1
        critical = priority >= CRITICAL_PRIORITY
        lane, entity = (Lane.CRITICAL, type) if critical else classify(type, data)
        if critical:
            user.events_sent += 1
        at_once = critical or user.admits(self._serial, now)
        errors: list[Exception] = []
        for receiver in list(user.receivers) or [""]:
            waiting = Waiting(type, priority, lane, entity, DIRECT, self._serial, str(self._serial), data, size, now)
            if at_once:
                _report(errors, self._on_emit, user_id, receiver, [Batch([waiting])])
            else:
                self.defer(user_id, receiver, waiting)
        _raise_all(errors)

    def defer(self, user_id: str, receiver: str, waiting: Waiting) -> None:
        """Let an event that was not admitted wait for one receiver alone.  Raises RequestError after `shutdown`."""
        self._check_open()
        user = self.user(user_id)
        held = user.behind.get(receiver) or user.receivers.get(receiver) or Receiver()
        direct = held.sources.get(waiting.room)
        if not isinstance(direct, Direct):
            direct = Direct()
        direct.put(waiting)
        self.behind(user_id, receiver, waiting.room, direct, waiting.since, held)
        self._gather(user_id, user, receiver, held)
        if not held.depth:
            held.sources.clear()
            self._caught_up(user_id, user, receiver)

    def behind(self, user_id: str, receiver: str, room: str, source: Source, now: float,
               held: Receiver | None = None) -> None:
        """A receiver is behind in `room` from now on, until a flush has brought it to the end of `source`."""
        user = self.user(user_id)
        held = held or user.receivers[receiver]
        held.sources[room] = source
        if user.behind is _NOBODY:
            user.behind = {}
        user.behind[receiver] = held
        if not self._backlog:
            self._flushed = max(self._flushed, now)
        self._backlog[user_id] = user

    def _caught_up(self, user_id: str, user: UserQueue, receiver: str) -> None:
        user.behind.pop(receiver, None)
        if not user.behind:
            self._backlog.pop(user_id, None)

    def user(self, user_id: str, rate: float | None = None) -> UserQueue:
        """The user's queue, made on demand; `rate` gives this user one of its own from now on."""
        user = self._users.get(user_id)
        if user is None:
            self._prune()
            user = self._users[user_id] = UserQueue(self.rate if rate is None else rate)
        elif rate is not None and rate != user.rate:
            user.retune(self._clock(), rate)
        return user

    def register(self, user_id: str, receiver: str, merge: bool = False, reader: Reader | None = None) -> UserQueue:
        """Add a receiver (a session) of the user.  `merge`: it understands frames with batches of several entities,
        so that one frame takes all that waits (up to `MAX_FRAME_ITEMS` events)."""
        user = self.user(user_id)
        user.receivers[receiver] = Receiver(merge, reader)
        self._idle.pop(user_id, None)
        return user

    def forget(self, user_id: str, receiver: str) -> list[Waiting]:
        """Drop a receiver; returns what waited for it.  The user itself goes with its last receiver, once its
        bucket is full again: reconnecting gains no tokens."""
        user = self._users.get(user_id)
        if user is None:
            return []
        held = user.receivers.pop(receiver, None) or user.behind.get(receiver)
        self._caught_up(user_id, user, receiver)
        if not user.behind and not user.receivers:
            self._idle[user_id] = user
        return held.waiting() if held is not None else []

    def drop(self, user_id: str, receiver: str, room: str) -> None:
        """A receiver is not behind in `room` any more, whatever waited there."""
        user = self._users.get(user_id)
        held = user.behind.get(receiver) if user is not None else None
        if user is not None and held is not None:
            held.sources.pop(room, None)
            if not held.sources:
                self._caught_up(user_id, user, receiver)

    def _gather(self, user_id: str, user: UserQueue, receiver: str, held: Receiver,
                errors: list[Exception] | None = None) -> None:
        """Take in what a receiver has not got, and report what had to be shed for it."""
        sheds, count = held.gather(self.max_items, self.max_bytes)
        self.deferred += count
        if not sheds:
            return
        user.shed += sum(shed.count for shed in sheds)
        caught: list[Exception] = [] if errors is None else errors
        _report(caught, self._on_shed, user_id, receiver, sheds)
        if errors is None:
            _raise_all(caught)

    def _gather_all(self, user_id: str) -> None:
        user = self._users.get(user_id)
        for receiver, held in list(user.behind.items()) if user is not None else ():
            self._gather(user_id, self._users[user_id], receiver, held)

    def flush(self, now: float | None = None) -> None:
        """Send what each user's rate allows by now: for one token, one frame to each receiver that is behind.

        An error in a callback keeps nobody else waiting: all are raised at the end in one ExceptionGroup.
        """
        for _ in self.flush_each(now):
            pass

    def flush_each(self, now: float | None = None) -> Iterator[None]:
        """As `flush`, one user a step: between two of them others may get their turn."""
        now = self._clock() if now is None else now
        self._flushed = now
        errors: list[Exception] = []
        for user_id, user in list(self._backlog.items()):
            if self._backlog.get(user_id) is not user:
                continue
            for receiver, held in list(user.behind.items()):
                self._gather(user_id, user, receiver, held, errors)
            while any(held.reads() for held in user.behind.values()) and user.admit(now):
                self._send_frames(user_id, user, now, errors)
            yield
        _raise_all(errors)

    @property
    def next_flush(self) -> float | None:
        """When to call `flush` next, in seconds of the clock; None when nothing waits."""
        return self._flushed + self.flush_interval if self._backlog else None

    def get_queue(self, user_id: str) -> list[dict[str, object]]:
        """What waits for the user, by receiver and in order within each entity: `{receiver, type, data, priority,
        room, seq, id, since, merged}`, `since` in seconds of the clock."""
        self._gather_all(user_id)
        user = self._users.get(user_id)
        if user is None:
            return []
        return [_shown(receiver, waiting) for receiver, held in user.behind.items() for waiting in held.waiting()]

    def get_queue_depth(self, user_id: str | None = None) -> int:
        """How many events wait, for one user (for its fullest receiver) or for all users together."""
        users = list(self._backlog) if user_id is None else [user_id]
        for one in users:
            self._gather_all(one)
        return sum(self._users[one].depth for one in users if one in self._users)

    def get_events_sent(self, user_id: str | None = None) -> int:
        """How many events have left, for one user or all; one that goes to several receivers counts once."""
        if user_id is None:
            return self._gone_sent + sum(user.events_sent for user in self._users.values())
        user = self._users.get(user_id)
        return user.events_sent if user else 0

    def clear_queue(self, user_id: str) -> list[dict[str, object]]:
        """Drop what waits for the user and return it, as `get_queue` shows it.  What follows in a room waits on."""
        dropped = self.get_queue(user_id)
        user = self._users.get(user_id)
        for receiver, held in list(user.behind.items()) if user else ():
            for source in held.sources.values():
                source.backlog = EMPTY
            held.forget_empty()
            if user is not None and not held.sources:
                self._caught_up(user_id, user, receiver)
        return dropped

    def shutdown(self) -> dict[str, list[dict[str, object]]]:
        """Take nothing more and return what was still waiting, by user; nothing is sent.  Idempotent."""
        self._closed = True
        return {user_id: self.clear_queue(user_id) for user_id in list(self._backlog)}

    def release(self, user_id: str, receiver: str) -> None:
        """Send all that waits for a receiver, whatever the rate: its connection is about to be closed.  What waits for
        one that does not read stays."""
        user, now = self._users.get(user_id), self._clock()
        errors: list[Exception] = []
        while user is not None and (held := user.behind.get(receiver)) is not None and held.reads():
            self._gather(user_id, user, receiver, held, errors)
            user.events_sent += self._send_frame(user_id, user, receiver, held, now, errors)
        _raise_all(errors)

    def _send_frames(self, user_id: str, user: UserQueue, now: float, errors: list[Exception]) -> None:
        most = 0
        for receiver, held in list(user.behind.items()):
            if user.behind.get(receiver) is not held or not held.reads():
                continue  # forgotten by a callback, or it does not read
            most = max(most, self._send_frame(user_id, user, receiver, held, now, errors))
        user.events_sent += most

    def _send_frame(self, user_id: str, user: UserQueue, receiver: str, held: Receiver, now: float,
                    errors: list[Exception]) -> int:
        batches = held.take(now)
        if not held.sources:
            self._caught_up(user_id, user, receiver)
        if batches:
            _report(errors, self._on_emit, user_id, receiver, batches)
        return sum(len(batch.waits) for batch in batches)

    def _prune(self) -> None:
        """Let go of idle users whose buckets are full again, a few at a time, oldest first."""
        now = self._clock()
        for user_id, user in list(islice(self._idle.items(), _PRUNED_AT_ONCE)):
            if user.receivers or user.behind:
                del self._idle[user_id]
            elif user.is_full(now):
                del self._idle[user_id], self._users[user_id]
                self._gone_sent += user.events_sent
            else:
                self._idle[user_id] = self._idle.pop(user_id)  # the next ones first, next time

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError(ErrorCode.DRAINING, "the throttler is shut down")


def _report(errors: list[Exception], callbacks: list[Callable[[str, str, list[T]], object]], user_id: str,
            receiver: str, news: list[T]) -> None:
    for callback in callbacks:
        try:
            callback(user_id, receiver, news)
        except Exception as error:  # raised by the caller, after the others were served
            errors.append(error)


def _size(data: object) -> int:
    try:
        return len(strict_dumps(data).encode())
    except UnicodeEncodeError as error:
        raise PayloadError(f"data cannot be written as UTF-8: {error}", {"data": [str(error)]}) from error


def _raise_all(errors: list[Exception]) -> None:
    if errors:
        raise ExceptionGroup("callbacks of the throttler failed", errors)


def _shown(receiver: str, waiting: Waiting) -> dict[str, object]:
    return {"receiver": receiver, "type": waiting.event, "data": waiting.item, "priority": waiting.priority,
            "room": waiting.room, "seq": waiting.seq, "id": waiting.id, "since": waiting.since,
            "merged": waiting.merged}
