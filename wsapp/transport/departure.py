"""Whether the client of a request that waits is still there: its socket is looked at, never read."""

from __future__ import annotations

import _socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from gevent import get_hub

READING: Final = 1


class Departure:
    """While it is entered, `left()` is called by the hub as soon as the peer of `sock` closes its end.  A peer that
    sends something instead (HTTP pipelining, or TLS records) is no longer watched.  Without a socket nothing is."""

    __slots__ = ("_io", "_left", "_sock")

    def __init__(self, sock: Any, left: Callable[[], None]) -> None:
        self._sock, self._left = getattr(sock, "_sock", None), left
        self._io: Any = None

    def __enter__(self) -> Self:
        if self._sock is not None:
            self._io = get_hub().loop.io(self._sock.fileno(), READING)
            self._io.start(self._look)
            self._look()  # it may have left already: the hub does not tell in the order of arrival
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        watcher, self._io = self._io, None
        if watcher is not None:
            watcher.close()

    def _look(self) -> None:
        assert self._sock is not None
        try:
            # The plain recv of the C class: that of TLS sockets takes no flags.
            gone = not _socket.socket.recv(self._sock, 1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        self._stop()
        if gone:
            self._left()
