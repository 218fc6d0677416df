"""What a worker knows of its way to Redis: one link per partition, and those who wait for it.

A part of the worker whose question failed reports that with `failed`, and may `wait_up`.  One greenlet per link (that
of the publish queue) asks for all of them.  A failed question does not make a link DOWN by itself: the probe decides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event

from wsapp.core.link import AFTER, LinkEvent, LinkState, worst
from wsapp.core.partitions import partition_of
from wsapp.errors import BrokerUnavailable

log = logging.getLogger(__name__)

OUTAGE_WAIT_S: Final = 2.0  # of an outage in which a client that returns is kept waiting

Observer = Callable[[LinkState], None]


class Link:
    """The link of one partition.  `since` is when the outage began (monotonic clock; None while there is none),
    `reason` why, with what to do about it."""

    def __init__(self, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self.state, self.reason = LinkState.UP, ""
        self.since: float | None = None
        self._observer, self._clock = observer, clock
        self._trouble, self._answered = Event(), Event()
        self._answered.set()

    @property
    def troubled(self) -> bool:
        """Whether the link is not UP, or must prove that it is."""
        return bool(self._trouble.is_set())

    def failed(self, error: BrokerUnavailable) -> None:
        """A question was not answered: the probe finds out whether others are."""
        self.reason = str(error)
        if self.since is None:
            self.since = self._clock()
        self._answered.clear()
        self._trouble.set()

    def lost(self, error: BrokerUnavailable) -> None:
        """Redis does not answer: from now on publications wait."""
        if self.state is LinkState.UP:
            log.warning("Redis is away, publications wait: %s", error)
        self.failed(error)
        self._learn(LinkEvent.LOST)

    def answered(self, waiting: bool) -> None:
        """The probe, or what was recorded last, was answered; `waiting`: publications still wait to be recorded."""
        self.since = None
        if not waiting:
            self._trouble.clear()
        self._answered.set()
        self._learn(LinkEvent.ANSWERED if waiting else LinkEvent.CAUGHT_UP)

    def _learn(self, event: LinkEvent) -> None:
        before, self.state = self.state, AFTER[self.state, event]
        if self.state is not before:
            self._observer(self.state)

    def wait_trouble(self) -> None:
        """Until the link must be probed."""
        self._trouble.wait()

    def wait_up(self, until: float | None = None) -> bool:
        """Wait until Redis answers again, at most until then on the clock; whether it does."""
        return bool(self._answered.wait(None if until is None else max(0.0, until - self._clock())))


class Links:
    """The links of all partitions, of which there is at least one.  `observer` is called with the worst state of them
    when that changes."""

    def __init__(self, observer: Observer, partitions: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer, self._clock = observer, clock
        self.parts = tuple(Link(self._changed, clock) for _ in range(partitions))
        self.state = LinkState.UP

    def _changed(self, _state: LinkState) -> None:
        state = worst(tuple(link.state for link in self.parts))
        if state is not self.state:
            self.state = state
            self._observer(state)

    @property
    def reason(self) -> str:
        """Why which links are not UP, with what to do about it."""
        if len(self.parts) == 1:
            return self.parts[0].reason
        return "; ".join(f"partition {number}: {link.reason}" for number, link in enumerate(self.parts)
                         if link.state is not LinkState.UP)

    def is_up(self, room: str) -> bool:
        """Whether the room's partition answers and nothing waits for it."""
        return self.parts[partition_of(room, len(self.parts))].state is LinkState.UP

    def lost(self, error: BrokerUnavailable) -> None:
        """As `Link.lost`, of the partition that the error names."""
        self.parts[error.partition].lost(error)

    def wait_after(self, error: BrokerUnavailable, until: float) -> bool:
        """A question failed: wait until its partition answers again, at most until then, and not beyond the first
        `OUTAGE_WAIT_S` of the outage; whether asking again makes sense."""
        link = self.parts[error.partition]
        link.failed(error)
        assert link.since is not None
        return link.wait_up(min(until, link.since + OUTAGE_WAIT_S))

    def rest_after(self, error: BrokerUnavailable, pause_s: float) -> None:
        """A question of a background task failed: pause, and then wait until its partition answers again."""
        link = self.parts[error.partition]
        link.failed(error)
        gevent.sleep(pause_s)
        link.wait_up()
