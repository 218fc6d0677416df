"""How fast a user is sent events: a token bucket per user and worker, counted in frames.

Under its rate an event leaves at once; over it, it waits in the lanes of each of the user's receivers (one receiver
is one session), and `flush` pays one token for one frame to each of them.  Nothing here does I/O, sleeps or reads a
clock of its own; nothing is safe against threads, and the callbacks must not block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from itertools import islice
from sys import maxsize
from typing import Final, TypeVar

from wsapp.core.events import CRITICAL_PRIORITY, DEFAULT_PRIORITY, MAX_PRIORITY, MIN_PRIORITY, Lane, strict_dumps
from wsapp.core.lanes import Batch, Lanes, Shed, Waiting, classify
from wsapp.errors import ErrorCode, PayloadError, RequestError

MIN_RATE: Final = 0.01  # per second: the time between two tokens has to be a number that clocks can add
_EARLY: Final = 1e-6  # seconds: so that a flush at exactly the due time is not lost to rounding
_PRUNED_AT_ONCE: Final = 4  # per new user: idle ones go faster than users come

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


# Shared by all users with nothing waiting: a fan-out looks at it for every member, and this one is always at hand.
_NO_LANES: Final[dict[str, Lanes]] = {}


class UserQueue(Bucket):
    """One user on this worker.  `lanes` has an entry for each receiver with something waiting, no other;
    `receivers` says of each registered receiver whether it takes several groups in one frame."""

    __slots__ = ("deferred", "events_sent", "lanes", "receivers", "shed", "stamp")

    def __init__(self, rate: float, burst: float | None = None) -> None:
        super().__init__(rate, burst)
        self.stamp: object = None  # the last event that was decided on
        self.deferred = False      # and what was decided
        self.lanes = _NO_LANES
        self.receivers: dict[str, bool] = {}
        self.events_sent = self.shed = 0

    def admits(self, serial: object, now: float) -> bool:
        """Whether the event leaves at once.  False: `defer` it for each receiver.

        Decided once per event, for one token: as long as `serial` equals the one of the call before, the answer is
        the same for all of the user's receivers.  `serial` is kept (pass an id, not the event) and must not be None.
        False while anything waits, so that nothing overtakes.
        """
        if serial == self.stamp:
            return not self.deferred
        self.stamp = serial
        due = self._due  # what follows is `admit`, without its call: this is asked for every member of every event
        if self.lanes or now + _EARLY < due:
            self.deferred = True
            return False
        full = now - self._tolerance
        self._due = (due if due > full else full) + self._interval
        self.deferred = False
        self.events_sent += 1
        return True

    def admits_all(self, serial: object, count: int, now: float) -> bool:
        """As `admits`, of `count` events that go together or not at all; when not, nothing is spent and each may be
        asked for by itself."""
        if serial == self.stamp:
            return not self.deferred
        self.stamp = serial
        if self.lanes or not self.admit_all(count, now):
            self.deferred = True
            return False
        self.deferred = False
        self.events_sent += count
        return True

    def low_water(self, receiver: str, room: str) -> int | None:
        """The smallest seq of the room that waits for the receiver, None when nothing does."""
        lanes = self.lanes.get(receiver)
        return None if lanes is None else lanes.low_water(room)

    @property
    def depth(self) -> int:
        """How many wait for the receiver that has most waiting."""
        return max((lanes.depth for lanes in self.lanes.values()), default=0)


class EventThrottler:
    """The throttle of all users of a worker.

    `rate` events a second and user (0: no limit), with a burst of max(1, rate); what is over it waits, at most
    `max_items` events and `max_bytes` bytes for each receiver, and is flushed every `flush_interval` seconds by
    whoever calls `flush`.  Both durations in seconds of `clock`.
    """

    def __init__(self, rate: float = 10, flush_interval: float = 0.1, clock: Callable[[], float] = time.monotonic,
                 max_items: int = 1000, max_bytes: int = 1_000_000) -> None:
        Bucket(rate)
        Lanes(max_items, max_bytes)
        if not flush_interval > 0:
            raise ValueError("flush_interval must be positive")
        self.rate, self.flush_interval = rate, flush_interval
        self._clock, self._max_items, self._max_bytes = clock, max_items, max_bytes
        self._users: dict[str, UserQueue] = {}
        self._backlog: dict[str, UserQueue] = {}
        self._idle: dict[str, UserQueue] = {}  # without receivers; kept until their buckets are full again
        self._on_emit: list[OnEmit] = []
        self._on_shed: list[OnShed] = []
        self.ready: Callable[[str], bool] = _always  # whether a receiver can take a frame now
        self._flushed = -math.inf
        self._serial = self._gone_sent = 0
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
            waiting = Waiting(type, priority, lane, entity, "", self._serial, str(self._serial), data, size, now)
            if at_once:
                _tell(errors, self._on_emit, user_id, receiver, [Batch([waiting])])
            else:
                self.defer(user_id, receiver, waiting)
        _raise_all(errors)

    def user(self, user_id: str, rate: float | None = None) -> UserQueue:
        """The user's queue, made on demand; `rate` gives this user one of its own from now on."""
        user = self._users.get(user_id)
        if user is None:
            self._prune()
            user = self._users[user_id] = UserQueue(self.rate if rate is None else rate)
        elif rate is not None and rate != user.rate:
            user.retune(self._clock(), rate)
        return user

    def register(self, user_id: str, receiver: str, merge: bool = False) -> UserQueue:
        """Add a receiver (a session) of the user.  `merge`: it understands frames with batches of several entities,
        so that one frame takes all that waits (up to 100 events)."""
        user = self.user(user_id)
        user.receivers[receiver] = merge
        self._idle.pop(user_id, None)
        return user

    def forget(self, user_id: str, receiver: str) -> list[Waiting]:
        """Drop a receiver; returns what waited for it.  The user itself goes with its last receiver, once its
        bucket is full again: reconnecting gains no tokens."""
        user = self._users.get(user_id)
        if user is None:
            return []
        user.receivers.pop(receiver, None)
        lanes = user.lanes.pop(receiver, None)
        if not user.lanes:
            self._backlog.pop(user_id, None)
            if not user.receivers:
                self._idle[user_id] = user
        return lanes.clear() if lanes else []

    def defer(self, user_id: str, receiver: str, waiting: Waiting) -> None:
        """Let an event that was not admitted wait for one receiver.  Raises RequestError after `shutdown`."""
        self._check_open()
        user = self.user(user_id)
        lanes = user.lanes.get(receiver)
        if lanes is None:
            lanes = Lanes(self._max_items, self._max_bytes)
        sheds = lanes.put(waiting)
        if lanes.depth:
            if user.lanes is _NO_LANES:
                user.lanes = {}
            user.lanes[receiver] = lanes
            if not self._backlog:
                self._flushed = max(self._flushed, waiting.since)
            self._backlog[user_id] = user
        self._shed(user_id, user, receiver, sheds)

    def keep_states(self, user_id: str, receiver: str) -> None:
        """Shed all that waits for a receiver but the latest states of tasks: it is far behind."""
        user = self._users.get(user_id)
        lanes = user.lanes.get(receiver) if user is not None else None
        if user is None or lanes is None:
            return
        self._shed(user_id, user, receiver, lanes.keep_states())
        if not lanes.depth:
            del user.lanes[receiver]

    def _shed(self, user_id: str, user: UserQueue, receiver: str, sheds: list[Shed]) -> None:
        if sheds:
            user.shed += sum(shed.count for shed in sheds)
            errors: list[Exception] = []
            _tell(errors, self._on_shed, user_id, receiver, sheds)
            _raise_all(errors)

    def flush(self, now: float | None = None) -> None:
        """Send what each user's rate allows by now: for one token, one frame to each receiver with a backlog.

        An error in a callback keeps nobody else waiting: all are raised at the end in one ExceptionGroup.
        """
        now = self._clock() if now is None else now
        self._flushed = now
        errors: list[Exception] = []
        for user_id, user in list(self._backlog.items()):
            while any(map(self.ready, user.lanes)) and user.admit(now):
                self._send_frames(user_id, user, now, errors)
            if not user.lanes:
                self._backlog.pop(user_id, None)
        _raise_all(errors)

    @property
    def has_backlog(self) -> bool:
        """Whether anything waits."""
        return bool(self._backlog)

    @property
    def next_flush(self) -> float | None:
        """When to call `flush` next, in seconds of the clock; None when nothing waits."""
        return self._flushed + self.flush_interval if self._backlog else None

    def get_queue(self, user_id: str) -> list[dict[str, object]]:
        """What waits for the user, by receiver and in order within each entity: `{receiver, type, data, priority,
        room, seq, id, since, merged}`, `since` in seconds of the clock."""
        user = self._users.get(user_id)
        if user is None:
            return []
        return [_shown(receiver, waiting) for receiver, lanes in user.lanes.items() for waiting in lanes.waiting()]

    def get_queue_depth(self, user_id: str | None = None) -> int:
        """How many events wait, for one user (for its fullest receiver) or for all users together."""
        if user_id is None:
            return sum(user.depth for user in self._backlog.values())
        user = self._users.get(user_id)
        return user.depth if user else 0

    def get_events_sent(self, user_id: str | None = None) -> int:
        """How many events have left, for one user or all; one that goes to several receivers counts once."""
        if user_id is None:
            return self._gone_sent + sum(user.events_sent for user in self._users.values())
        user = self._users.get(user_id)
        return user.events_sent if user else 0

    def clear_queue(self, user_id: str) -> list[dict[str, object]]:
        """Drop what waits for the user and return it, as `get_queue` shows it."""
        dropped = self.get_queue(user_id)
        self._backlog.pop(user_id, None)
        user = self._users.get(user_id)
        if user:
            user.lanes.clear()
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
        while user is not None and (lanes := user.lanes.get(receiver)) is not None and self.ready(receiver):
            user.events_sent += self._send_frame(user_id, user, receiver, lanes, now, errors)
        if user is not None and not user.lanes:
            self._backlog.pop(user_id, None)
        _raise_all(errors)

    def _send_frames(self, user_id: str, user: UserQueue, now: float, errors: list[Exception]) -> None:
        most = 0
        for receiver, lanes in list(user.lanes.items()):
            if user.lanes.get(receiver) is not lanes or not self.ready(receiver):
                continue  # forgotten by a callback, or it does not read
            most = max(most, self._send_frame(user_id, user, receiver, lanes, now, errors))
        user.events_sent += most

    def _send_frame(self, user_id: str, user: UserQueue, receiver: str, lanes: Lanes, now: float,
                    errors: list[Exception]) -> int:
        batches = lanes.take(now, maxsize if user.receivers.get(receiver) else 1)
        if not lanes.depth:
            del user.lanes[receiver]
        _tell(errors, self._on_emit, user_id, receiver, batches)
        return sum(len(batch.waits) for batch in batches)

    def _prune(self) -> None:
        """Let go of idle users whose buckets are full again, a few at a time, oldest first."""
        now = self._clock()
        for user_id, user in list(islice(self._idle.items(), _PRUNED_AT_ONCE)):
            if user.receivers or user.lanes:
                del self._idle[user_id]
            elif user.is_full(now):
                del self._idle[user_id], self._users[user_id]
                self._gone_sent += user.events_sent
            else:
                self._idle[user_id] = self._idle.pop(user_id)  # the next ones first, next time

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError(ErrorCode.DRAINING, "the throttler is shut down")


def _always(_receiver: str) -> bool:
    return True


def _tell(errors: list[Exception], callbacks: list[Callable[[str, str, list[T]], object]], user_id: str,
             receiver: str, told: list[T]) -> None:
    for callback in callbacks:
        try:
            callback(user_id, receiver, told)
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
