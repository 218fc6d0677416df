"""A TLS socket that one thread may read while another sends.

OpenSSL takes one call on a connection at a time, and Python before 3.13 does not see to that: two threads corrupt
the stream.  Here the calls never block and take turns; the waiting is done outside of them.
"""

from __future__ import annotations

import select
import ssl
import threading
import time


class TlsSocket:
    """The methods of a socket that wsapp uses, with the same timeouts and errors."""

    __slots__ = ("_ended", "_lock", "_sock", "_timeout")

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock, self._lock, self._ended = sock, threading.Lock(), False
        self._timeout = sock.gettimeout() or 0.0
        sock.settimeout(0)

    def settimeout(self, seconds: float) -> None:
        """As of a socket; 0 means not to wait."""
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        """As of a socket: empty at the end.  Raises TimeoutError, or BlockingIOError when it may not wait."""
        deadline = time.monotonic() + self._timeout
        while not self._ended:
            try:
                with self._lock:
                    return self._sock.recv(size)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)
        return b""

    def sendall(self, data: bytes) -> None:
        """As of a socket, but only one thread may send at a time.  Raises TimeoutError, OSError."""
        deadline, rest = time.monotonic() + self._timeout, memoryview(data)
        while rest:
            try:
                with self._lock:
                    rest = rest[self._sock.send(rest):]
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)

    def _wait(self, event: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError if self._timeout else BlockingIOError
        poll = select.poll()
        poll.register(self._sock.fileno(), event)
        poll.poll(left * 1000)

    def shutdown(self, how: int) -> None:
        """As of a socket: whoever reads sees the end."""
        self._ended = True
        with self._lock:
            self._sock.shutdown(how)
