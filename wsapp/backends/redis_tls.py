"""TLS to Redis: connections that share what their certificates were read into, and a socket that one thread may read
while another sends.

OpenSSL takes one call on a connection at a time, and Python before 3.13 does not see to that: two threads corrupt
the stream.  Here the calls never block and take turns; the waiting is done outside of them.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from typing import Any, Final

from redis.connection import SSLConnection

from wsapp.backends.redis_errors import Explained

_contexts: Final[dict[tuple[object, ...], ssl.SSLContext]] = {}


class TlsConnection(SSLConnection):
    """redis-py's, but the trusted CAs are read once and again when their files change: reading those of the system
    takes tens of milliseconds, in which a worker does nothing else, and redis-py does it for every connection."""

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        if self.ssl_validate_ocsp or self.ssl_validate_ocsp_stapled:
            checked: ssl.SSLSocket = super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
            return checked
        return self._context().wrap_socket(sock, server_hostname=self.host)

    def _context(self) -> ssl.SSLContext:
        key: tuple[object, ...] = (  # gevent puts a class of its own in the place of ssl's
            ssl.SSLContext, self.ca_certs, self.ca_path, self.ca_data, self.certfile, self.keyfile,
            self.certificate_password, self.check_hostname, self.cert_reqs, self.ssl_min_version, self.ssl_ciphers,
            repr(self.ssl_include_verify_flags), repr(self.ssl_exclude_verify_flags),
            *(_changed_at(file) for file in (self.ca_certs, self.certfile, self.keyfile) if file))
        if key not in _contexts:
            _contexts[key] = self._made()
        return _contexts[key]

    def _made(self) -> ssl.SSLContext:
        """As redis-py makes it."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = self.check_hostname, self.cert_reqs
        _set_flags(context, self.ssl_include_verify_flags, self.ssl_exclude_verify_flags)
        if self.certfile or self.keyfile:
            context.load_cert_chain(self.certfile, self.keyfile, self.certificate_password)
        if self.ca_certs is not None or self.ca_path is not None or self.ca_data is not None:
            context.load_verify_locations(self.ca_certs, self.ca_path, self.ca_data)
        if self.ssl_min_version is not None:
            context.minimum_version = self.ssl_min_version
        if self.ssl_ciphers:
            context.set_ciphers(self.ssl_ciphers)
        return context


def _changed_at(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError as error:
        raise Explained(f"{file} in the Redis URL cannot be read: {error.strerror}") from error


def _set_flags(context: ssl.SSLContext, included: Any, excluded: Any) -> None:
    for flag in included or ():
        context.verify_flags |= flag
    for flag in excluded or ():
        context.verify_flags &= ~flag


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

    def fileno(self) -> int:
        """As of a socket."""
        return self._sock.fileno()

    def recv_now(self, size: int) -> bytes:
        """As `recv` without waiting.  With `size` beyond a TLS record (16 KB) nothing decrypted is left behind that no
        poll of the descriptor would report.  Raises BlockingIOError."""
        if self._ended:
            return b""
        try:
            with self._lock:
                return self._sock.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

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
