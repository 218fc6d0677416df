"""Two connected sockets, and what comes from one goes to the other, until both have ended.

The hub does that by callback: no greenlet, and in each direction one bounded piece on its way.  A side that does not
read stops the other from being read; one that takes nothing for too long ends both.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable
from typing import Any, Final

from gevent import get_hub

log = logging.getLogger(__name__)

PIECE: Final = 65_536
LINGER: Final = 5.0  # seconds in which the second side may end after the first


class _Way:
    """One direction.  `over()` is called when its source has ended and all of it was sent, `broken()` on an error,
    `jammed(bool)` when the sink begins or ceases to be full."""

    __slots__ = ("_broken", "_jammed", "_over", "_piece", "_readable", "_sink", "_source", "_writable", "done")

    def __init__(self, source: _socket.socket, sink: _socket.socket, over: Callable[[], None],
                 broken: Callable[[], None], jammed: Callable[[bool], None]) -> None:
        self._source, self._sink = source, sink
        self._over, self._broken, self._jammed = over, broken, jammed
        loop = get_hub().loop
        self._readable, self._writable = loop.io(source.fileno(), 1), loop.io(sink.fileno(), 2)
        self._piece = b""
        self.done = False

    def start(self, first: bytes) -> None:
        """Begin with bytes that were read already."""
        self._readable.start(self._read)
        if first:
            self._piece = first
            self._write()

    def stop(self) -> None:
        self._readable.close()
        self._writable.close()
        self._piece = b""

    def _read(self) -> None:
        try:
            data = self._source.recv(PIECE)
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("a side of a forwarded connection is gone: %s", error)
            self._broken()
            return
        if data:
            self._piece = data
            self._write()
            return
        self._readable.stop()
        self.done = True
        try:
            self._sink.shutdown(_socket.SHUT_WR)
        except OSError as error:
            log.debug("the other side was faster: %s", error)
        self._over()

    def _write(self) -> None:
        full = self._writable.active
        try:
            self._piece = self._piece[self._sink.send(self._piece):]
        except BlockingIOError:
            pass
        except OSError as error:
            log.debug("a side of a forwarded connection is gone: %s", error)
            self._broken()
            return
        if self._piece and not full:
            self._readable.stop()
            self._writable.start(self._write)
            self._jammed(True)
        elif full and not self._piece:
            self._writable.stop()
            self._readable.start(self._read)
            self._jammed(False)


class Splice:
    """A client's connection and the one to its owner.  A side may take nothing for `timeout` seconds; `ended(splice)`
    is called once."""

    __slots__ = ("_ended", "_jams", "_sides", "_timeout", "_timer", "_ways")

    def __init__(self, client: _socket.socket, owner: _socket.socket, timeout: float,
                 ended: Callable[[Splice], object]) -> None:
        for side in (client, owner):
            side.setblocking(False)
        self._sides, self._timeout, self._ended = (client, owner), timeout, ended
        self._ways = (_Way(client, owner, self._over, self.end, self._jammed),
                      _Way(owner, client, self._over, self.end, self._jammed))
        self._jams = 0
        self._timer: Any = None

    def start(self, from_client: bytes, from_owner: bytes) -> None:
        """Begin, with what was read from either side already."""
        self._ways[1].start(from_owner)
        if self._sides[0].fileno() >= 0:
            self._ways[0].start(from_client)

    def end(self) -> None:
        """Close both sides now.  Idempotent."""
        if self._sides[0].fileno() < 0:
            return
        self._set_timer(None)
        for way in self._ways:
            way.stop()
        for side in self._sides:
            side.close()
        self._ended(self)

    def _over(self) -> None:
        if all(way.done for way in self._ways):
            self.end()
        else:
            self._set_timer(LINGER)

    def _jammed(self, full: bool) -> None:
        self._jams += 1 if full else -1
        if not any(way.done for way in self._ways):
            self._set_timer(self._timeout if self._jams else None)

    def _set_timer(self, seconds: float | None) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()
        if seconds is not None:
            self._timer = get_hub().loop.timer(seconds)
            self._timer.start(self.end)
