"""Critical events in this process: what the Redis twin keeps, in dictionaries."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wsapp.core.ports import UNBOUNDED, Buried, DeadLetter, Due, Fate, Kept, Limits, Retry, UserDelivery


@dataclass(slots=True)
class _User:
    state: Fate
    attempts: int
    due: float
    died: float = 0.0


@dataclass(slots=True)
class _Event:
    record: bytes
    until: float
    users: dict[str, _User] = field(default_factory=dict)


class MemoryCritical:
    """`CriticalStore` in this process."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._events: dict[str, _Event] = {}
        self._pending: dict[str, set[str]] = {}
        self._dead: OrderedDict[tuple[str, str], None] = OrderedDict()  # by death
        self._ends = math.inf  # when the first event may be forgotten

    def keep(self, kept: Sequence[Kept]) -> None:
        """As `CriticalStore.keep`."""
        with self._lock:
            now = self._now()
            for one in kept:
                for user in one.users:
                    self._keep(one, user, now)

    def _now(self) -> float:
        now = self._clock()
        if now < self._ends:
            return now
        for id in [id for id, event in self._events.items() if event.until <= now]:
            for user in self._events.pop(id).users:
                self._unlist(user, id)
                self._dead.pop((user, id), None)
        self._ends = min((event.until for event in self._events.values()), default=math.inf)
        return now

    def _keep(self, kept: Kept, user: str, now: float) -> None:
        event = self._events.get(kept.id)
        if event is None:
            event = self._events[kept.id] = _Event(kept.record, now + self._limits.critical_ttl)
            self._ends = min(self._ends, event.until)
        if user in event.users:
            return
        event.users[user] = _User(Fate.PENDING, 1, now + kept.delay)
        pending = self._pending.setdefault(user, set())
        if len(pending) >= self._limits.critical_items:
            self._bury(user, kept.id, event, now)
        else:
            pending.add(kept.id)

    def _unlist(self, user: str, id: str) -> None:
        pending = self._pending.get(user)
        if pending is not None:
            pending.discard(id)
            if not pending:
                del self._pending[user]

    def _bury(self, user: str, id: str, event: _Event, now: float) -> None:
        held = event.users[user]
        held.state, held.died = Fate.DEAD, now
        event.until = max(event.until, now + self._limits.dead_ttl)
        self._unlist(user, id)
        self._dead[user, id] = None
        while len(self._dead) > self._limits.dead_letters:
            self._dead.popitem(last=False)

    def due(self, users: Sequence[str], lease: float, most: int = UNBOUNDED) -> list[Due]:
        """As `CriticalStore.due`."""
        return self._take(users, lease, most)

    def visit(self, users: Sequence[str], lease: float) -> list[Due]:
        """As `CriticalStore.visit`."""
        return self._take(users, lease, None)

    def _take(self, users: Sequence[str], lease: float, most: int | None) -> list[Due]:
        found = []
        with self._lock:
            now = self._now()
            for user in users:
                for id in sorted(self._pending.get(user, ())):
                    held = self._events[id].users[user]
                    if most is not None and held.due > now:
                        continue
                    held.due = now + lease
                    attempts = held.attempts + (most is not None)
                    if most is not None and attempts <= most:
                        held.attempts = attempts
                    found.append(Due(user, id, attempts, self._events[id].record))
        return found

    def retry(self, retries: Sequence[Retry]) -> list[UserDelivery | None]:
        """As `CriticalStore.retry`."""
        with self._lock:
            now = self._now()
            return [self._retry(retry, now) for retry in retries]

    def _retry(self, retry: Retry, now: float) -> UserDelivery | None:
        event = self._events.get(retry.id)
        held = event.users.get(retry.user) if event is not None else None
        if event is None or held is None or held.state is not Fate.PENDING:
            return None
        if held.attempts >= retry.most:
            self._bury(retry.user, retry.id, event, now)
        else:
            held.due = now + retry.delay
        return UserDelivery(held.state, held.attempts)

    def ack(self, user: str, id: str) -> bool:
        """As `CriticalStore.ack`."""
        with self._lock:
            self._now()
            event = self._events.get(id)
            if event is None or user not in event.users:
                return False
            event.users[user].state = Fate.ACKED
            self._unlist(user, id)
            self._dead.pop((user, id), None)
            return True

    def status(self, id: str) -> dict[str, UserDelivery]:
        """As `CriticalStore.status`."""
        with self._lock:
            self._now()
            event = self._events.get(id)
            return {} if event is None else {user: UserDelivery(held.state, held.attempts)
                                             for user, held in event.users.items()}

    def dead(self, limit: int, after: Buried | None = None) -> list[DeadLetter]:
        """As `CriticalStore.dead`."""
        with self._lock:
            self._now()
            letters = sorted((self._letter(user, id) for user, id in self._dead), key=_place)
            begun = None if after is None else _place(after)
            return [letter for letter in letters if begun is None or _place(letter) > begun][:max(0, limit)]

    def _letter(self, user: str, id: str) -> DeadLetter:
        event = self._events[id]
        return DeadLetter(user, id, event.users[user].attempts, event.users[user].died, event.record)

    def requeue(self, user: str, id: str) -> bool:
        """As `CriticalStore.requeue`."""
        with self._lock:
            now = self._now()
            if (user, id) not in self._dead:
                return False
            del self._dead[user, id]
            event = self._events[id]
            event.until = max(event.until, now + self._limits.critical_ttl)
            event.users[user] = _User(Fate.PENDING, 0, now)
            self._pending.setdefault(user, set()).add(id)
            return True

    def drop(self, user: str, id: str) -> bool:
        """As `CriticalStore.drop`."""
        with self._lock:
            self._now()
            if (user, id) not in self._dead:
                return False
            del self._dead[user, id]
            return True


def _place(letter: DeadLetter | Buried) -> tuple[int, str]:
    return round(letter.died * 1000), f"{letter.user}\t{letter.id}"
