"""The live connection to Redis, read by callbacks of gevent's hub.

    IDLE       the descriptor is watched; what arrives is taken at once
    GATHERING  two wake-ups came within `GATHER_S`: a timer takes what came in each such interval, until none did

No greenlet stands between the kernel and the fan-out: a wake-up saves two greenlet switches and the `recv` that fails
before each wait.  Under load a wake-up takes several records, for one poll and one `recv`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from gevent import get_hub
from gevent.event import Event

from wsapp.core.ports import LiveSocket

READABLE: Final = 1
PIECE: Final = 65_536  # bytes taken before the hub's other work gets its turn
GATHER_S: Final = 0.002


def read_in_hub(sock: LiveSocket, take: Callable[[bytes], bool], settle: Callable[[], None]) -> None:
    """As `wsapp.core.ports.Reading`: `take` runs in the hub, `settle` in the calling greenlet."""
    reading = _HubReading(sock, take)
    try:
        while True:
            reading.wait()
            settle()
    finally:
        reading.close()


class _HubReading:
    """The watchers of one connection."""

    def __init__(self, sock: LiveSocket, take: Callable[[bytes], bool]) -> None:
        self._recv_now, self._take = sock.recv_now, take
        self._news, self._read_at = Event(), 0.0
        self._failure: Exception | None = None
        loop = get_hub().loop
        self._io, self._timer = loop.io(sock.fileno(), READABLE), loop.timer(GATHER_S, GATHER_S)
        self._io.start(self._readable)

    def wait(self) -> None:
        """Until there is something to settle.  Raises what ended the connection."""
        self._news.wait()
        self._news.clear()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop reading.  Idempotent."""
        for watcher in (self._io, self._timer):
            watcher.stop()
            watcher.close()

    def _readable(self) -> None:
        """IDLE: take what has arrived, and gather if that happens often."""
        now = time.monotonic()
        if self._read() and now - self._read_at < GATHER_S:
            self._io.stop()
            self._timer.start(self._interval_over)
        self._read_at = now

    def _interval_over(self) -> None:
        """GATHERING: take what came meanwhile.  Nothing, or more than one piece: the descriptor is watched again."""
        if not self._read() and self._failure is None:
            self._timer.stop()
            self._io.start(self._readable)

    def _read(self) -> bool:
        """Whether a piece has arrived that is not a full one."""
        try:
            data = self._recv_now(PIECE)
        except BlockingIOError:
            return False
        except Exception as error:
            return self._fail(error)
        try:
            if not data:
                raise ConnectionResetError("the server closed the connection")
            if self._take(data):
                self._news.set()
        except Exception as error:
            return self._fail(error)
        return len(data) < PIECE

    def _fail(self, error: Exception) -> bool:
        self._failure = error
        self._io.stop()
        self._timer.stop()
        self._news.set()
        return False
