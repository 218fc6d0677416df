"""Waiting a moment for a Redis that is away: for those who would lose something by a quick no.

A client that comes back with a session is told `unavailable` only when Redis stays away; one second of it costs
nobody his replay.  What is asked again must bear it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

import gevent
from gevent.event import Event

from wsapp.errors import BrokerUnavailable

MOST: Final = 2.0  # seconds of an outage in which it is waited for
PAUSE: Final = 0.1  # seconds between the attempts of the one who tries for all
OWN_PAUSE: Final = 1.0  # seconds until the others try themselves: what they need may be there when his is not
ANOTHER: Final = 10.0  # seconds without an attempt after which a failure is that of another outage

T = TypeVar("T")


class Patience:
    """Of all who wait one tries again and again, and wakes the others when he is answered.  The time counts from the
    beginning of the outage: who comes into a long one is not kept waiting at all.  `whole`: one answer proves that
    everything is there, as it does unless there are several partitions."""

    def __init__(self, whole: bool = True) -> None:
        self._whole = whole
        self._since: float | None = None  # of the outage
        self._failed = 0.0
        self._tried = False  # whether somebody tries for all
        self._back = Event()

    def ask(self, question: Callable[[], T], gone: Callable[[], bool], until: float) -> T:
        """The answer, perhaps after a wait of the calling greenlet, at most `until` then on the monotonic clock.
        Raises BrokerUnavailable when Redis is away for too long, or who asks is `gone`."""
        while True:
            try:
                answer = question()
            except BrokerUnavailable:
                if gone() or not self._wait(until):
                    raise
            else:
                if self._since is not None:
                    self._wake()
                    if self._whole:
                        self._since = None
                return answer

    def returned(self) -> None:
        """Redis is there, as somebody else has found: whoever waits asks now."""
        if self._since is not None:
            self._since = None
            self._wake()

    def _wake(self) -> None:
        back, self._back = self._back, Event()
        back.set()

    def _wait(self, until: float) -> bool:
        """Until it is time to ask again; False when it is not waited for any more."""
        now = time.monotonic()
        if self._since is None or now - self._failed > ANOTHER:
            self._since = now
        self._failed = now
        left = min(self._since + MOST, until) - now
        if left <= 0:
            return False
        if self._tried:
            self._back.wait(min(left, OWN_PAUSE * random.uniform(0.5, 1.0)))
            return True
        self._tried = True
        try:
            gevent.sleep(min(left, PAUSE * random.uniform(0.5, 1.0)))
        finally:
            self._tried = False
        return True
