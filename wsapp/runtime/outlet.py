"""Publishing from a worker while Redis may be away (G7).

    normal -> degraded -> catching up -> normal

Normally a publish is one round trip.  When Redis does not answer at once, local watchers are served immediately, the
publication waits in a bounded outbox, and everything later queues behind it, so that the order holds.  When Redis is
back the outbox is flushed in order.  An event has one id from its draft on; what was sent to Redis before is sent as a
retry, so that it is not recorded twice.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Final

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from wsapp.core.events import Draft, Placed, Publication, publish_draft
from wsapp.core.ports import Backend, Receipt
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics

log = logging.getLogger(__name__)

BATCH: Final = 100  # publications of one attempt to flush
FIRST_PAUSE: Final = 0.05  # seconds
LONGEST_PAUSE: Final = 0.5
WARN_EVERY: Final = 1000  # publications that found the outbox full, between two warnings


class Mode(StrEnum):
    """What `/readyz`, the metrics and the `mode` event say."""

    NORMAL = "normal"
    DEGRADED = "degraded"
    CATCHING_UP = "catching_up"


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
    """One worker's way to the broker.  `serve(publication)` passes one to local watchers unrecorded; `told(mode)` is
    called when the mode changes."""

    def __init__(self, publish: Callable[[Sequence[Draft]], list[Receipt]], backend: Backend, metrics: Metrics,
                 limits: OutletLimits | None = None, clock: Callable[[], float] = time.monotonic,
                 recover: Callable[[Sequence[Draft]], list[Receipt]] | None = None) -> None:
        self._send, self._backend, self._metrics = publish, backend, metrics
        self._recover = recover or publish  # in the background, where nobody waits: it may take longer
        self._limits, self._clock = limits or OutletLimits(), clock
        self.mode, self.reason = Mode.NORMAL, ""  # why Redis is away, with what to do about it
        self.serve: Callable[[Publication], None] = _nobody
        self.told: Callable[[Mode], None] = _nothing
        self._waiting: deque[_Waiting] = deque()
        self._flushing = BoundedSemaphore()  # one attempt at a time: what is under way is not sent beside itself
        self._bytes = 0
        self._away = Event()
        self.refused = 0

    # -- the Publisher's broker

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """As `Broker.publish`, but never raises BrokerUnavailable: the receipts say `queued` or `local_only`."""
        self._metrics.publishes += len(drafts)
        tried = self.mode is Mode.NORMAL
        if tried:
            try:
                return self._send(drafts)
            except BrokerUnavailable as error:
                self.lost(error)
        return [self._queue(draft, tried) for draft in drafts]

    def _queue(self, draft: Draft, tried: bool) -> Receipt:
        self._metrics.publish_failures += 1
        unnumbered = replace(draft, flags=draft.flags.replace("s", ""))
        self.serve(publish_draft(unnumbered, tuple(Placed(room, 0, "") for room in draft.rooms)))
        if len(self._waiting) >= self._limits.items or self._bytes + len(draft.body) > self._limits.bytes:
            self.refused += 1
            if self.refused % WARN_EVERY == 1:
                log.error("the outbox is full: %d publications were served here only", self.refused)
            return Receipt(draft.id, (), "local_only")
        self._waiting.append(_Waiting(draft, self._clock(), tried))
        self._bytes += len(draft.body)
        return Receipt(draft.id, (), "queued")

    # -- the state machine

    def lost(self, error: BrokerUnavailable) -> None:
        """Redis did not answer somewhere."""
        self.reason = str(error)
        if self.mode is Mode.NORMAL:
            log.warning("Redis is away, publications wait: %s", error)
            self._enter(Mode.DEGRADED)
        self._away.set()

    def _enter(self, mode: Mode) -> None:
        if self.mode is not mode:
            self.mode = mode
            self.told(mode)

    def run(self) -> None:
        """Bring Redis up to date whenever it was away; one greenlet runs this."""
        while True:
            self._away.wait()
            pause = FIRST_PAUSE
            while self.mode is not Mode.NORMAL:
                if self._step():
                    pause = FIRST_PAUSE
                else:
                    gevent.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(pause * 2, LONGEST_PAUSE)
            self._away.clear()

    def _step(self) -> bool:
        """One attempt; False when Redis is still away."""
        with self._flushing:
            self._expire()
            batch = list(islice(self._waiting, BATCH))
            try:
                if batch:
                    self._recover([_to_send(one) for one in batch])
                else:
                    self._backend.ping()
            except BrokerUnavailable as error:
                self.reason = str(error)
                self._enter(Mode.DEGRADED)
                return False
            for one in batch:
                self._waiting.popleft()
                self._bytes -= len(one.draft.body)
        if self._waiting:
            self._enter(Mode.CATCHING_UP)
        else:
            log.info("Redis is back, nothing waits any more")
            self._enter(Mode.NORMAL)
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


def _nobody(_publication: Publication) -> None:
    return None


def _nothing(_mode: Mode) -> None:
    return None
