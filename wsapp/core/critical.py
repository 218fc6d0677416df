"""Critical events (G6): when one is sent again, when it is given up, and how its publisher follows it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wsapp.core.events import parse_record, strict_loads
from wsapp.core.ports import UNBOUNDED, Buried, CriticalStore, DeadLetter, Due, Fate, Receipt, Retry, UserDelivery
from wsapp.errors import BrokerUnavailable

JITTER: Final = 0.2  # a delay is up to this part shorter or longer, so that redeliveries do not come in waves
NACK_PART: Final = 0.25  # of the first delay: how soon a refused event comes again
SETTLING: Final = 0.3  # seconds within which all workers have said for whom they keep an event
FIRST_LOOK: Final = 0.01  # seconds between looks at an event's status: first, and doubling up to the last
LAST_LOOK: Final = 0.2
MOST_DOUBLINGS: Final = 40


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter: `first` seconds, then twice as long each time, at most `cap`; given up when
    `attempts` sendings brought no acknowledgement.  `uniform(low, high)` is the source of chance."""

    first: float = 2.0
    cap: float = 60.0
    attempts: int = 5
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def _jittered(self, delay: float) -> float:
        return delay * self.uniform(1.0 - JITTER, 1.0 + JITTER)

    def delay(self, attempts: int) -> float:
        """Seconds to wait for an acknowledgement after that many sendings."""
        doublings = min(max(0, attempts - 1), MOST_DOUBLINGS)
        return self._jittered(min(self.cap, self.first * 2.0 ** doublings))

    def exhausted(self, due: Due) -> bool:
        """Whether this sending would be one too many."""
        return due.attempts > self.attempts

    def after(self, due: Due) -> Retry:
        """What follows an event that fell due: another wait, or the dead letters."""
        if self.exhausted(due):
            return Retry(due.user, due.id, 0.0, 0)
        return Retry(due.user, due.id, self.delay(due.attempts), UNBOUNDED)

    def refused(self, user: str, id: str) -> Retry:
        """What follows a `nack-event`: soon again, or the dead letters when it was sent often enough."""
        return Retry(user, id, self._jittered(min(self.cap, self.first * NACK_PART)), self.attempts)

    @property
    def lease(self) -> float:
        """Seconds for which an event that is being sent is nobody else's; a worker that dies meanwhile costs them."""
        return max(1.0, self.first)

    @property
    def sweep(self) -> float:
        """Seconds between two looks for what is due."""
        return min(1.0, max(0.05, self.first / 4))


def told_status(id: str, users: dict[str, UserDelivery]) -> dict[str, Any]:
    """`{id, users: {user: {state: pending | acked | dead, attempts}}}`."""
    return {"id": id, "users": {user: {"state": str(at.state), "attempts": at.attempts}
                                for user, at in sorted(users.items())}}


def told_letter(letter: DeadLetter) -> dict[str, Any]:
    """`{id, user, attempts, died (ms), event, data, rooms}`."""
    publication = parse_record(letter.record)
    return {"id": letter.id, "user": letter.user, "attempts": letter.attempts, "died": round(letter.died * 1000),
            "event": publication.event, "data": strict_loads(publication.body),
            "rooms": [place.room for place in publication.places]}


def wait_for_ack(store: CriticalStore, id: str, timeout: float, users: Iterable[str] | None = None, *,
                 clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> bool:
    """As `Acknowledged.wait_for_ack`."""
    begun, pause = clock(), FIRST_LOOK
    wanted = None if users is None else frozenset(users)
    while True:
        waited = clock() - begun
        try:
            settled = _settled(store.status(id), wanted)
        except BrokerUnavailable:
            if waited >= timeout:
                raise
            settled = None
        if settled is not None and (wanted is not None or waited >= min(SETTLING, timeout)):
            return settled
        left = timeout - (clock() - begun)
        if left <= 0:
            return False
        sleep(min(pause, left))
        pause = min(LAST_LOOK, pause * 2)


def _settled(status: dict[str, UserDelivery], wanted: frozenset[str] | None) -> bool | None:
    """Whether all have acknowledged it; None as long as that may change."""
    states = [at.state for user, at in status.items() if wanted is None or user in wanted]
    if Fate.DEAD in states:
        return False
    known = bool(states) if wanted is None else wanted <= status.keys()
    return True if known and all(state is Fate.ACKED for state in states) else None


class Acknowledged:
    """What a publisher of critical events can ask and its operator can do; the owner sets `critical_store`.  All
    raise BrokerUnavailable when Redis was not reached in time."""

    critical_store: CriticalStore

    def delivery_status(self, id: str) -> dict[str, Any]:
        """`{id, users: {user: {state: pending | acked | dead, attempts}}}` of a critical event; no users when it has
        reached nobody, is not critical, or is older than WSAPP_CRITICAL_TTL."""
        return told_status(id, self.critical_store.status(id))

    def wait_for_ack(self, receipt: Receipt | str, timeout: float, users: Iterable[str] | None = None) -> bool:
        """Wait at most `timeout` seconds for the acknowledgement of a critical event (a receipt or an id).

        With `users`: until each of them has acknowledged it, also those whom it reaches later.  Without: until
        everybody has for whom the workers keep it, which they say within 0.3 s; somebody must.  True when all
        have; False when the time is up or it became a dead letter.
        """
        id = receipt if isinstance(receipt, str) else receipt.id
        return wait_for_ack(self.critical_store, id, timeout, users)

    def dead_letters(self, limit: int = 100, after: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The oldest dead letters, each `{id, user, attempts, died (ms), event, data, rooms}`; those that follow
        `after`, the last one of the page before."""
        place = None if after is None else Buried(after["died"] / 1000, after["user"], after["id"])
        return [told_letter(letter) for letter in self.critical_store.dead(limit, place)]

    def requeue_dead_letter(self, id: str, user: str) -> bool:
        """Deliver a dead letter again, with its attempts counted anew.  False when there is none."""
        return self.critical_store.requeue(user, id)

    def drop_dead_letter(self, id: str, user: str) -> bool:
        """Forget a dead letter.  False when there is none."""
        return self.critical_store.drop(user, id)
