"""Connections to workers of other hosts, kept for the requests that follow."""

from __future__ import annotations

import _socket
import logging
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from gevent import socket

from wsapp.transport.handoff import has_buffered, request_reader, take_buffered
from wsapp.transport.hosts.route import Route, fingerprint
from wsapp.transport.request_head import BadHead, Fields, read_fields
from wsapp.transport.tunnel import Tunnel, begin_tunnel, shake_hands

log = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 1.0  # seconds for TCP and TLS together: hosts of one Redis are near each other
DOWN_FOR: Final = 1.0  # seconds in which an address that did not answer is not tried again
IDLE_FOR: Final = 15.0  # seconds; the owner closes what is silent for longer
MOST_IDLE: Final = 32  # connections per owner
MAX_STATUS_LINE: Final = 1024
TCP: Final = _socket.IPPROTO_TCP
# A peer that is cut off is noticed: 5 s after bytes that it does not acknowledge, 10 s after the last byte without any.
ALIVE: Final = ((_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1), (TCP, _socket.TCP_NODELAY, 1),
                *((TCP, getattr(_socket, name), value) for name, value in
                  (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 5), ("TCP_USER_TIMEOUT", 5_000))
                  if hasattr(_socket, name)))
# Of a WebSocket: its owner may leave bytes unread for a while, which stops the window (tcp(7), TCP_USER_TIMEOUT).
UNREAD_FOR: Final = ((TCP, _socket.TCP_USER_TIMEOUT, 30_000),) if hasattr(_socket, "TCP_USER_TIMEOUT") else ()


class Unreachable(OSError):
    """The owner of a session cannot be asked, or did not answer."""


class Upstream:
    """One connection, for one request at a time."""

    __slots__ = ("reader", "since", "sock")

    def __init__(self, sock: Any) -> None:
        self.sock, self.reader, self.since = sock, request_reader(sock), 0.0

    def answered(self) -> tuple[int, str, Fields]:
        """Read the head of an answer: its code, its status line without the version, its fields.  Raises
        Unreachable."""
        line: bytes = self.reader.readline(MAX_STATUS_LINE)
        version, _, status = line.decode("latin-1").rstrip("\r\n").partition(" ")
        if not (line.endswith(b"\n") and version == "HTTP/1.1" and status[:3].isdecimal()):
            raise Unreachable("the owner of the session closed the connection" if not line else "no answer of HTTP/1.1")
        try:
            return int(status[:3]), status, read_fields(self.reader)
        except BadHead as error:
            raise Unreachable(str(error)) from error

    def fresh(self) -> bool:
        """Whether an idle connection can be used again: its owner has sent nothing, and has not closed."""
        if has_buffered(self.reader) or time.monotonic() - self.since > IDLE_FOR:
            return False
        try:
            self.sock._sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError as error:
            log.debug("an idle connection is gone: %s", error)
        return False

    def abort(self) -> None:
        """End it from the hub; who waits for an answer gets the end."""
        try:
            self.sock._sock.shutdown(_socket.SHUT_RDWR)
        except OSError as error:
            log.debug("the connection is gone already: %s", error)

    def close(self) -> None:
        self.reader.close()
        self.sock.close()

    def detach(self) -> tuple[_socket.socket, bytes]:
        """The plain socket, and what was read from it beyond the head of the answer."""
        early = take_buffered(self.reader)
        if self.sock.family != _socket.AF_UNIX:
            _set(self.sock, UNREAD_FOR)
        sock = self.sock
        return _socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach()), early


class Upstreams:
    """Those of one worker.  `context` is for workers that speak TLS."""

    def __init__(self, context: ssl.SSLContext, clock: Callable[[], float] = time.monotonic) -> None:
        self._context, self._clock = context, clock
        self._idle: defaultdict[str, deque[Upstream]] = defaultdict(deque)
        self._down: dict[tuple[str, int], float] = {}
        self._tunnels: set[Tunnel] = set()

    def take(self, token: str, route: Route) -> Upstream:
        """A connection to the worker `token`.  Raises Unreachable."""
        idle = self._idle[token]
        while idle:
            upstream = idle.pop()
            if upstream.fresh():
                return upstream
            upstream.close()
        if self._down.get((route.host, route.port), 0.0) > self._clock():
            raise Unreachable(f"{route.host}:{route.port} did not answer a moment ago")
        try:
            with gevent.Timeout(CONNECT_TIMEOUT, TimeoutError(f"no connection within {CONNECT_TIMEOUT:g} s")):
                return Upstream(self._connect(route))
        except OSError as error:
            self._down[route.host, route.port] = self._clock() + DOWN_FOR
            raise Unreachable(f"{route.host}:{route.port}: {error}") from error

    def give_back(self, token: str, upstream: Upstream) -> None:
        """The answer was read to its end: the connection may be used again."""
        upstream.since = time.monotonic()
        idle = self._idle[token]
        idle.append(upstream)
        if len(idle) > MOST_IDLE:
            idle.popleft().close()

    def drop(self, token: str) -> None:
        """A request failed: what else is open to the worker may be cut off too."""
        for upstream in self._idle.pop(token, ()):
            upstream.close()

    def tend(self) -> None:
        """Close what is idle for too long; called once a second or so."""
        for token, idle in list(self._idle.items()):
            while idle and not idle[0].fresh():
                idle.popleft().close()
            if not idle:
                del self._idle[token]
        now = self._clock()
        self._down = {address: until for address, until in self._down.items() if until > now}

    def close(self) -> None:
        """Close all that is idle, and what stands behind TLS connections.  Idempotent."""
        for token in list(self._idle):
            self.drop(token)
        for tunnel in list(self._tunnels):
            tunnel.end()

    def _connect(self, route: Route) -> Any:
        sock = socket.create_connection((route.host, route.port))
        try:
            _set(sock, ALIVE)
            return self._behind_tls(sock, route) if route.certificates else sock
        except BaseException:
            sock.close()
            raise

    def _behind_tls(self, sock: Any, route: Route) -> Any:
        """Shake hands, and return the near end of a tunnel.  Raises OSError."""
        raw = _socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        raw.setblocking(False)
        _set(raw, UNREAD_FOR)  # a tunnel that is not read stops the window too
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing)
        try:
            shake_hands(raw, tls, incoming, outgoing)
            if fingerprint(tls.getpeercert(binary_form=True) or b"") not in route.certificates:
                raise Unreachable("it shows a certificate that no lease names")
            return begin_tunnel(raw, tls, incoming, outgoing, self._tunnels)
        except BaseException:
            raw.close()
            raise


def _set(sock: Any, options: Sequence[tuple[int, int, int]]) -> None:
    for option in options:
        sock.setsockopt(*option)
