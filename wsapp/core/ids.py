"""Ids of events, made by the publisher: time-ordered, unique, and growing within a process.

An id is 24 hexadecimal digits: 14 of a clock in 1/1024 ms since the epoch, then 10 that are random per process.  Ids
of one process grow strictly.  Ids of different processes are ordered as far as their clocks agree; what orders the
events of a room is `seq`, never the id.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from typing import Final

STEPS: Final = 1024  # ids in a millisecond; more run ahead of the clock
CLOCK_DIGITS: Final = 14


class Ids:
    """Makes ids; safe for threads, and where Python enters it again: in a signal handler or a finalizer.  `clock` gives
    seconds since the epoch; set back, ids still grow."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last, self._tail = 0, secrets.token_hex(5)

    def new(self) -> str:
        """The next id."""
        now = int(self._clock() * 1000) * STEPS
        # A lock would be held by the very thread that a signal handler runs on.  The interpreter gives way to other
        # threads and to signal handlers at calls and jumps back only, and there is none in these two lines.
        last = self._last
        self._last = last = last + 1 if last >= now else now
        return f"{last:014x}{self._tail}"

    def forked(self) -> None:
        """In a child process: other random digits than the parent's."""
        self._tail = secrets.token_hex(5)


_ids: Final = Ids()
new_id: Final = _ids.new
os.register_at_fork(after_in_child=_ids.forked)


def made_ms(id: str) -> float:
    """When an id was made, in ms since the epoch by its publisher's clock.  Raises ValueError when it is none."""
    return int(id[:CLOCK_DIGITS], 16) / STEPS
