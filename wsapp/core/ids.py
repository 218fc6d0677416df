"""Ids of events, made by the publisher: time-ordered, unique, and growing within a process.

An id is 24 hexadecimal digits: 14 of a clock in 1/1024 ms since the epoch, then 10 that are random per process.  Ids
of one process grow strictly.  Ids of different processes are ordered as far as their clocks agree; what orders the
events of a room is `seq`, never the id.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

STEPS: Final = 1024  # ids in a millisecond; more run ahead of the clock
CLOCK_DIGITS: Final = 14


class Ids:
    """Makes ids; safe for threads.  `clock` gives seconds since the epoch; set back, ids still grow."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._last, self._tail = 0, secrets.token_hex(5)

    def new(self) -> str:
        """The next id."""
        now = int(self._clock() * 1000) * STEPS
        with self._lock:
            self._last = last = max(self._last + 1, now)
        return f"{last:014x}{self._tail}"

    def forked(self) -> None:
        """In a child process: other random digits than the parent's, and a lock that nobody holds."""
        self._lock, self._tail = threading.Lock(), secrets.token_hex(5)


_ids: Final = Ids()
new_id: Final = _ids.new
os.register_at_fork(after_in_child=_ids.forked)


def made_ms(id: str) -> float:
    """When an id was made, in ms since the epoch by its publisher's clock.  Raises ValueError when it is none."""
    return int(id[:CLOCK_DIGITS], 16) / STEPS
