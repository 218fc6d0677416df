"""One greenlet and one wheel for every PING and every timeout of a worker.

Engine.IO v4, "Heartbeat": the server pings every `pingInterval`; a client that does not answer within `pingTimeout`
is gone.  A connection with unconfirmed events is pinged sooner, since a PONG is what proves that they arrived: when it
has gone quiet, and under heavy traffic every few hundred events.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

import gevent

from wsapp.transport.frames import Frame

log = logging.getLogger(__name__)

PING_FRAME: Final = Frame(b"2")
SLOTS: Final = 512
LATENESS: Final = 0.75  # of the timeout that a late PING may take from it
LOOK: Final = 2.0  # seconds between looks at a connection


class Beating(Protocol):
    """What the wheel needs of a connection."""

    pinged_at: float
    awaiting_pong: bool
    closed: bool

    def wants_ping(self) -> bool: ...
    def ping(self) -> None: ...
    def timed_out(self) -> None: ...
    def check(self, now: float) -> None: ...


class Heartbeat:
    """The wheel.  A connection sits in the slot of its next check; a tick touches only the ones that are due."""

    def __init__(self, interval: float, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval, self._timeout, self._clock = interval, timeout, clock
        self._look = min(interval, LOOK)
        self._tick = min(max(min(self._look, timeout) / 10, 0.01), 0.25)
        self._wheel: list[list[Beating]] = [[] for _ in range(SLOTS)]
        self._now_slot = 0
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def add(self, beating: Beating) -> None:
        """Watch over a connection from now on, until it is closed."""
        beating.pinged_at, beating.awaiting_pong = self._clock(), False
        self._put(beating, self._look)

    def _put(self, beating: Beating, delay: float) -> None:
        ticks = max(1, min(SLOTS - 1, round(delay / self._tick)))
        self._wheel[(self._now_slot + ticks) % SLOTS].append(beating)

    def _run(self) -> None:
        due = self._clock()
        while True:
            # A process that was stopped must not make up for all the ticks it missed.
            due = max(due + self._tick, self._clock() - self._tick)
            gevent.sleep(max(0.0, due - self._clock()))
            self.turn(self._clock())

    def turn(self, now: float) -> None:
        """One tick: judge the connections of the next slot."""
        self._now_slot = (self._now_slot + 1) % SLOTS
        slot, self._wheel[self._now_slot] = self._wheel[self._now_slot], []
        for beating in slot:
            if beating.closed:
                continue
            try:
                self._judge(beating, now)
            except Exception:
                log.exception("the heartbeat failed on a connection; it is looked at again, and the others go on")
                self._put(beating, self._look)

    def _judge(self, beating: Beating, now: float) -> None:
        beating.check(now)
        slack = self._tick / 2
        if beating.awaiting_pong:
            left = beating.pinged_at + self._timeout - now
            if left <= slack:
                beating.timed_out()
            else:
                self._put(beating, min(left, self._look))  # the PONG may come long before
            return
        elapsed = now - beating.pinged_at
        left = self._interval - elapsed
        if left <= slack or beating.wants_ping():
            # The client counts from the last PING it got, so a tick's lateness does not buy it time.
            late = min(max(-left, 0.0), self._timeout * LATENESS)
            beating.pinged_at, beating.awaiting_pong = now - late, True
            beating.ping()
            left = min(self._timeout - late, self._look)
        self._put(beating, min(left, self._look))
