"""TLS that ends in the worker: behind each client stands a pair of connected Unix sockets, and one end of it is served.

All that is served is then a plain socket with the decrypted bytes: it can be peeked at, passed on to the worker that
owns its session, and written to without blocking, as if there were no TLS.  The worker that accepted a client
encrypts and decrypts for it as long as it is there, whoever serves it.  The hub does that by callback: no greenlet,
and in each direction one bounded piece on its way; a side that does not read stops the other from being read.
"""

from __future__ import annotations

import _socket
import logging
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent import get_hub, socket
from gevent.socket import wait_read, wait_write

from wsapp.core.throttle import Bucket

log = logging.getLogger(__name__)

READ_SIZE: Final = 65536
LINGER: Final = 5.0  # seconds in which a client may take the last bytes and close in its turn
NOT_TLS: Final = (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                  b"Content-Length: 32\r\n\r\nThis port speaks https, not http")
# A fatal alert, internal_error: nothing is wrong with what the peer said (RFC 8446 sections 5.1 and 6.2).
TOO_MANY: Final = b"\x15\x03\x03\x00\x02\x02\x50"


class HandshakeRefused(OSError):
    """The worker shakes hands as often as it may."""


class Tunnel:
    """One client: its TCP socket, and the end of the pair that is not served.  `ended(tunnel)` is called once."""

    __slots__ = ("_client_done", "_ended", "_from_client", "_from_server", "_incoming", "_inner", "_inward",
                 "_outgoing", "_outward", "_server_done", "_sock", "_timer", "_tls", "_to_client", "_to_server")

    def __init__(self, sock: _socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO,
                 inner: _socket.socket, ended: Callable[[Tunnel], object]) -> None:
        self._sock, self._inner, self._ended = sock, inner, ended
        self._tls, self._incoming, self._outgoing = tls, incoming, outgoing
        self._inward = self._outward = b""  # decrypted, encrypted, and not yet taken
        self._client_done = self._server_done = False
        loop = get_hub().loop
        self._from_client, self._to_client = loop.io(sock.fileno(), 1), loop.io(sock.fileno(), 2)
        self._from_server, self._to_server = loop.io(inner.fileno(), 1), loop.io(inner.fileno(), 2)
        self._timer: Any = None

    def start(self) -> None:
        """Begin, with what came behind the handshake."""
        self._from_client.start(self._client_readable)
        self._from_server.start(self._server_readable)
        self._decrypt()

    def end(self) -> None:
        """Close both sides now.  Idempotent."""
        if self._sock.fileno() < 0:
            return
        for watcher in (self._from_client, self._to_client, self._from_server, self._to_server, self._timer):
            if watcher is not None:
                watcher.close()
        self._sock.close()
        self._inner.close()
        self._inward = self._outward = b""
        self._ended(self)

    # -- inwards

    def _client_readable(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.end()
            return
        if self._server_done:  # nobody wants it; what counts is the end
            if not data:
                self.end()
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        self._decrypt()

    def _decrypt(self) -> None:
        parts = []
        try:
            while part := self._tls.read(READ_SIZE):
                parts.append(part)
            self._client_done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            # An end without close_notify too: HTTP and WebSocket know by themselves whether they were cut short.
            log.debug("the client's side is over: %s", error)
            self._client_done = True
        self._inward = b"".join(parts)
        if self._inward or self._client_done:
            self._deliver()
        if self._outgoing.pending:  # an answer of TLS itself
            self._send()

    def _deliver(self) -> None:
        jammed = self._to_server.active
        if self._inward:
            try:
                self._inward = self._inward[self._inner.send(self._inward):]
            except BlockingIOError:
                pass
            except OSError as error:
                log.debug("nobody reads any more: %s", error)  # its end comes the other way
                self._inward = b""
        if self._inward:
            if not jammed:
                self._from_client.stop()
                self._to_server.start(self._deliver)
            return
        if jammed:
            self._to_server.stop()
            self._from_client.start(self._client_readable)
        if self._client_done:
            self._from_client.stop()
            self._shut(self._inner)

    # -- outwards

    def _server_readable(self) -> None:
        try:
            data = self._inner.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:  # closed with bytes unread
            log.debug("the server's side is over: %s", error)
            data = b""
        if data:
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                log.debug("a client's TLS is broken: %s", error)
                self.end()
                return
        else:
            self._finish()
        self._send()

    def _finish(self) -> None:
        self._from_server.stop()
        self._server_done = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the close_notify is on its way; the client's is not waited for here
        self._linger()

    def _linger(self) -> None:
        if self._timer is not None:
            self._timer.close()
        self._timer = get_hub().loop.timer(LINGER)
        self._timer.start(self.end)

    def _send(self) -> None:
        jammed = bool(self._outward)
        data = self._outward + self._outgoing.read() if jammed else self._outgoing.read()
        try:
            sent = self._sock.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.end()
            return
        self._outward = data[sent:]
        if self._outward:
            if sent and self._server_done:
                self._linger()
            if not jammed:
                self._from_server.stop()
                self._to_client.start(self._send)
            return
        if jammed:
            self._to_client.stop()
            if not self._server_done:
                self._from_server.start(self._server_readable)
        if self._server_done:
            self._said_goodbye()

    def _said_goodbye(self) -> None:
        """All is sent.  Closing while the client still sends would reset the connection and lose what it has not read
        yet, so its end is waited for."""
        if self._client_done:
            self.end()
        else:
            self._shut(self._sock)

    @staticmethod
    def _shut(sock: _socket.socket) -> None:
        try:
            sock.shutdown(_socket.SHUT_WR)
        except OSError as error:
            log.debug("the other side was faster: %s", error)


class TlsFront:
    """The TLS connections that this worker accepted, wherever they are served.  `bucket` says how many handshakes a
    second there may be; of each one more `on_refusal` is told."""

    def __init__(self, context: ssl.SSLContext, bucket: Bucket | None = None,
                 on_refusal: Callable[[], object] = lambda: None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._context, self._bucket = context, bucket or Bucket(0)
        self._on_refusal, self._clock = on_refusal, clock
        self._tunnels: set[Tunnel] = set()

    def __len__(self) -> int:
        return len(self._tunnels)

    def accept(self, accepted: Any, patience: float) -> Any:
        """Take over a connected socket, shake hands within `patience` seconds, and return the socket to serve: the
        client's bytes, decrypted.  None when nothing came of it; the client has been told why, as far as TLS can."""
        raw = _socket.socket(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        raw.setblocking(False)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
        try:
            with gevent.Timeout(patience, TimeoutError("no TLS handshake came")):
                incoming.write(_receive(raw))
                self._admit()
                shake_hands(raw, tls, incoming, outgoing)
            return begin_tunnel(raw, tls, incoming, outgoing, self._tunnels)
        except OSError as error:
            log.debug("no TLS connection: %s", error)
            _refuse(raw, outgoing, error)
            return None
        except BaseException:
            raw.close()
            raise

    def _admit(self) -> None:
        """Judged when a client has begun to speak, and before anything is computed for it.  Raises HandshakeRefused."""
        if not self._bucket.admit(self._clock()):
            self._on_refusal()
            raise HandshakeRefused("more handshakes than WSAPP_MAX_TLS_HANDSHAKES_PER_SEC")

    def end(self) -> None:
        """Close what is left."""
        for tunnel in list(self._tunnels):
            tunnel.end()


def begin_tunnel(raw: _socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO,
                 tunnels: set[Tunnel]) -> Any:
    """Start a tunnel behind a handshake that is over; the near end, where everything is plain.  It is in `tunnels`
    until it ends.  Raises OSError."""
    ours, near = _socket.socketpair()
    ours.setblocking(False)
    tunnel = Tunnel(raw, tls, incoming, outgoing, ours, tunnels.discard)
    tunnels.add(tunnel)
    tunnel.start()
    return socket.socket(fileno=near.detach())


def shake_hands(raw: _socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    """Of either side; nothing else may read the socket meanwhile.  Raises OSError."""
    while True:
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        if outgoing.pending:
            _send_all(raw, outgoing.read())
        if done:
            return
        incoming.write(_receive(raw))


def _receive(raw: _socket.socket) -> bytes:
    wait_read(raw.fileno())
    data = raw.recv(READ_SIZE)
    if not data:
        raise ConnectionError("the client left during the handshake")
    return data


def _send_all(raw: _socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[raw.send(data):]
        except BlockingIOError:
            wait_write(raw.fileno())


def _refuse(raw: _socket.socket, outgoing: ssl.MemoryBIO, error: OSError) -> None:
    """Tell what can be told without waiting: an alert, or in plain HTTP that this is no port for it."""
    told = NOT_TLS if getattr(error, "reason", None) == "HTTP_REQUEST" else outgoing.read()
    if isinstance(error, HandshakeRefused):
        told = TOO_MANY
    try:
        if told:
            raw.send(told)
            raw.shutdown(_socket.SHUT_WR)
    except OSError as gone:
        log.debug("it left before it was told: %s", gone)
    raw.close()
