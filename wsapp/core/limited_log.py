"""Log lines that strangers cause, bounded per source and in all: a flood of refusals must not fill a disk.

A line that is left out is counted, and the next one of the same source says how many there were.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from wsapp.core.throttle import Bucket

PER_SOURCE: Final = 1.0  # lines per second of one address, user or key
SOURCE_BURST: Final = 10
ONCE_A_MINUTE: Final = 1 / 60  # for a state that lasts
IN_ALL: Final = 100.0  # lines per second of a worker
BURST: Final = 500
MOST_SOURCES: Final = 4096


class Source:
    """What one address, user or key has caused."""

    __slots__ = ("bucket", "left_out")

    def __init__(self, rate: float, burst: int) -> None:
        self.bucket = Bucket(rate, burst)
        self.left_out = 0


class LimitedLog:
    """Writes to `logger` at level WARNING: `rate` lines per second of a source, `burst` at once.  `clock` gives
    seconds."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic, *,
                 rate: float = PER_SOURCE, burst: int = SOURCE_BURST) -> None:
        self._logger, self._clock, self._rate, self._burst = logger, clock, rate, burst
        self._all = Bucket(IN_ALL, BURST)
        self._sources: OrderedDict[str, Source] = OrderedDict()

    def warning(self, source: str, line: str, *args: object) -> None:
        """Write `line % args`, unless `source` or all together have written as many as they may."""
        found = self._sources.get(source)
        if found is None:
            found = self._sources[source] = Source(self._rate, self._burst)
            if len(self._sources) > MOST_SOURCES:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(source)
        now = self._clock()
        if not found.bucket.admit(now) or not self._all.admit(now):
            found.left_out += 1
            return
        more, found.left_out = found.left_out, 0
        self._logger.warning(line + "%s", *args, f"; {more} more since the last such line" if more else "")
