"""What a client sent and nobody has handled yet: in order, one at a time, bounded in messages and bytes.

One greenlet works it off, made on demand: a handler may block, and only its own client waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import gevent

INBOX_LIMIT: Final = 64  # messages that wait before the client is no longer read from
TURN: Final = 16  # messages of one client before the others get their turn


class Reader(Protocol):
    """Whose messages these are."""

    closed: bool

    def pause(self) -> bool: ...
    def resume(self) -> None: ...


class Inbox:
    """One client's.  `deliver(item)` handles a message; `reader.pause()` says whether it could stop reading."""

    __slots__ = ("_bytes", "_deliver", "_items", "_limit", "_paused", "_reader", "_working")

    def __init__(self, reader: Reader, deliver: Callable[[Any], None], limit: int) -> None:
        self._reader, self._deliver, self._limit = reader, deliver, limit
        self._items: deque[tuple[Any, int]] | None = None  # an empty deque has 600 bytes, and most clients are idle
        self._bytes = 0
        self._working = self._paused = False

    def __contains__(self, item: object) -> bool:
        return any(item == kept for kept, _ in self._items or ())

    @property
    def busy(self) -> bool:
        """Whether a message waits or is being handled."""
        return self._working

    @property
    def full(self) -> bool:
        """Whether the client should be read from no more."""
        return self._items is not None and (len(self._items) >= INBOX_LIMIT or self._bytes >= self._limit)

    @property
    def paused(self) -> bool:
        """Whether the client is not read from now."""
        return self._paused

    def put(self, item: Any, size: int) -> None:
        """Add a message that came in `size` bytes."""
        if self._items is None:
            self._items = deque()
        self._items.append((item, size))
        self._bytes += size
        if not self._working:
            self._working = True
            gevent.spawn(self._work)
        elif self.full and not self._paused:
            self._paused = self._reader.pause()

    def _work(self) -> None:
        turn = 0
        while self._items and not self._reader.closed:
            item, size = self._items.popleft()
            self._bytes -= size
            self._deliver(item)
            turn += 1
            if turn % TURN == 0:
                gevent.sleep(0)
        self._items, self._bytes, self._working = None, 0, False
        if self._paused and not self._reader.closed:
            self._paused = False
            self._reader.resume()
