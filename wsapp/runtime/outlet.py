"""Publishing from a worker while Redis may be away (G7).

Normally a publish is one round trip.  When Redis does not answer at once, local watchers are served immediately, the
publication waits in a bounded outbox, and everything later queues behind it, so that the order holds.  When Redis is
back the outbox is flushed in order.  An event has one id from its draft on; what was sent to Redis before is sent as a
retry, so that it is not recorded twice.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from wsapp.core.events import Draft, Placed, Publication, publish_draft
from wsapp.core.link import Backoff, LinkState
from wsapp.core.ports import Backend, Receipt
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime.link import Link

log = logging.getLogger(__name__)

BATCH: Final = 100  # publications of one attempt to flush
FIRST_PAUSE: Final = 0.05  # seconds
LONGEST_PAUSE: Final = 0.25
WARN_EVERY: Final = 1000  # publications that found the outbox full, between two warnings


@dataclass(frozen=True, slots=True)
class OutletLimits:
    """Bounds of the outbox: items, bytes, and the age in seconds past which an item is given up."""

    items: int = 10_000
    bytes: int = 16_000_000
    age: float = 600.0


class _Waiting:
    """A draft in the outbox; `at` is when it came.  `tried`: it was sent, and perhaps recorded."""

    __slots__ = ("at", "draft", "tried")

    def __init__(self, draft: Draft, at: float, tried: bool) -> None:
        self.draft, self.at, self.tried = draft, at, tried


class Outlet:
    """One worker's way to the broker.  `serve(publication)` passes one to local watchers unrecorded.  It also probes
    the link, for all who wait for it."""

    def __init__(self, publish: Callable[[Sequence[Draft]], list[Receipt]], backend: Backend, link: Link,
                 metrics: Metrics, serve: Callable[[Publication], None], limits: OutletLimits | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._backend, self._link, self._metrics = publish, backend, link, metrics
        self._serve, self._limits, self._clock = serve, limits or OutletLimits(), clock
        self._waiting: deque[_Waiting] = deque()
        self._flushing = BoundedSemaphore()  # one attempt at a time: what is under way is not sent beside itself
        self._bytes = 0
        self.refused = 0

    # -- the Publisher's broker

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """As `Broker.publish`, but never raises BrokerUnavailable: the receipts say `queued` or `local_only`."""
        self._metrics.publishes += len(drafts)
        tried = self._link.state is LinkState.UP
        if tried:
            try:
                return self._send(drafts)
            except BrokerUnavailable as error:
                self._link.lost(error)
        return [self._queue(draft, tried) for draft in drafts]

    def _queue(self, draft: Draft, tried: bool) -> Receipt:
        self._metrics.publish_failures += 1
        unnumbered = replace(draft, flags=draft.flags.replace("s", ""))
        self._serve(publish_draft(unnumbered, tuple(Placed(room, 0, "") for room in draft.rooms)))
        if len(self._waiting) >= self._limits.items or self._bytes + len(draft.body) > self._limits.bytes:
            self.refused += 1
            if self.refused % WARN_EVERY == 1:
                log.error("the outbox is full: %d publications were served here only", self.refused)
            return Receipt(draft.id, (), "local_only")
        self._waiting.append(_Waiting(draft, self._clock(), tried))
        self._bytes += len(draft.body)
        return Receipt(draft.id, (), "queued")

    # -- the link

    def run(self) -> None:
        """Probe the link when a question failed, bring Redis up to date when it was away; one greenlet runs this."""
        while True:
            self._link.wait_trouble()
            backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
            gevent.sleep(backoff.next_s())
            while self._link.troubled:
                if self._step():
                    backoff.reset()
                else:
                    gevent.sleep(backoff.next_s())

    def _step(self) -> bool:
        """One attempt; False when Redis is still away."""
        with self._flushing:
            self._expire()
            batch = list(islice(self._waiting, BATCH))
            try:
                if batch:
                    self._send([_to_send(one) for one in batch])
                else:
                    self._backend.ping()
            except BrokerUnavailable as error:
                self._link.lost(error)
                return False
            for one in batch:
                self._waiting.popleft()
                self._bytes -= len(one.draft.body)
        if not self._waiting and self._link.state is not LinkState.UP:
            log.info("Redis is back, nothing waits any more")
        self._link.answered(waiting=bool(self._waiting))
        return True

    def _expire(self) -> None:
        limit = self._clock() - self._limits.age
        while self._waiting and self._waiting[0].at < limit:
            draft = self._waiting.popleft().draft
            self._bytes -= len(draft.body)
            self.refused += 1
            log.error("publication %s was given up: Redis has been away for too long", draft.id)

    def waiting(self) -> int:
        """Publications that wait for Redis."""
        return len(self._waiting)

    def flush(self, deadline: float) -> int:
        """Before the worker ends: try until `deadline` (of the clock); returns how many were left behind."""
        while self._waiting and self._clock() < deadline:
            if not self._step():
                gevent.sleep(FIRST_PAUSE)
        return len(self._waiting)


def _to_send(waiting: _Waiting) -> Draft:
    """The draft, as a retry when it was sent before; from now on it was."""
    tried, waiting.tried = waiting.tried, True
    return replace(waiting.draft, retry=True) if tried else waiting.draft
