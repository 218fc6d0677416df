"""The Engine.IO server: HTTP requests in, connections out (Engine.IO protocol v4).

It stands in for `engineio.Server` under python-socketio.  Every request is judged before anything is done for it:
method, version, transport, origin, limits, session; a refusal is an ordinary HTTP answer with the error object of the
reference server, `{"code", "message"}`.
"""

from __future__ import annotations

import gzip
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final
from urllib.parse import parse_qs

import engineio

from wsapp.core.events import strict_dumps
from wsapp.core.limited_log import ONCE_A_MINUTE, LimitedLog
from wsapp.errors import CloseCode, WsappError
from wsapp.transport.connection import BROKEN, Connection, Ending
from wsapp.transport.deflate import negotiate, squeezer
from wsapp.transport.departure import Departure
from wsapp.transport.frames import Frame, Squeeze
from wsapp.transport.gate import Gate, TooMany, client_address
from wsapp.transport.heartbeat import Heartbeat
from wsapp.transport.origins import Origins, Turnstile
from wsapp.transport.polling import SEPARATOR, PacketError
from wsapp.transport.websocket import (
    HandshakeError,
    accept_header,
    check_handshake,
    first_subprotocol,
    refuse,
    switch_protocols,
)

log = logging.getLogger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

COMPRESS_FROM: Final = 1024  # bytes
CONTENT: Final = ("Content-Type", "text/plain; charset=UTF-8")
UNAVAILABLE: Final = "503 Service Unavailable"
BEARER: Final = 'Bearer realm="wsapp", error="invalid_token"'  # RFC 6750 section 3
TOKEN_LENGTH: Final = 8  # characters of a sid that name its worker


class Refusal(IntEnum):
    """Error codes of the reference Engine.IO server."""

    UNKNOWN_TRANSPORT = 0
    UNKNOWN_SID = 1
    BAD_HANDSHAKE_METHOD = 2
    BAD_REQUEST = 3
    FORBIDDEN = 4
    UNSUPPORTED_PROTOCOL_VERSION = 5


class Refused(Exception):
    """A request gets an HTTP error."""

    def __init__(self, code: Refusal, message: str, status: str = "400 Bad Request",
                 headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.code, self.status, self.headers = code, status, list(headers)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Times in seconds, sizes in bytes."""

    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    max_message: int = 1_000_000
    first_message: int = 65_536  # largest until a CONNECT was accepted
    max_packets: int = 5000
    outbox_bytes: int = 4_000_000
    outbox_age: float = 30.0
    inbox_bytes: int = 4_000_000
    deflate: bool = False
    deflate_threshold: int = 1024
    deflate_level: int = 1
    transports: tuple[str, ...] = ("polling", "websocket")
    upgrades: bool = True


def _uncounted(_name: str) -> None:
    return None


@dataclass(slots=True)
class Hooks:
    """What the inside does with connections."""

    opened: Callable[[Connection, Environ], None]
    read: Callable[[Connection, str | bytes], Any]  # a whole message, or None for more to come; raises PacketError
    handle: Callable[[Connection, Any], None]
    closed: Callable[[Connection, str], None]
    count: Callable[[str], None] = _uncounted  # a step of the ladder for clients that do not read, by its name


class Engine(engineio.Server):  # type: ignore[misc]  # engineio has no types
    """All Engine.IO connections of a worker.  `token` begins every sid, so that any worker knows whose it is."""

    def __init__(self, options: EngineOptions, origins: Origins, hooks: Hooks, gate: Gate | None = None,
                 **engineio_options: Any) -> None:
        super().__init__(async_mode="gevent", monitor_clients=False, async_handlers=False, cors_allowed_origins=[],
                         ping_interval=options.ping_interval, ping_timeout=options.ping_timeout,
                         max_http_buffer_size=options.max_message, **engineio_options)
        self.options, self.origins, self.hooks, self.gate = options, origins, hooks, gate or Gate()
        self.turnstile = Turnstile(origins, lambda environ: client_address(environ, self.gate.options.proxies),
                                   lambda name: self.hooks.count(name))
        self.squeeze = squeezer(options.deflate_threshold, options.deflate_level)
        self.token = secrets.token_hex(TOKEN_LENGTH // 2)
        self.draining = False
        self._lines, self._drained = LimitedLog(log), LimitedLog(log, rate=ONCE_A_MINUTE, burst=1)
        self.sockets: dict[str, Connection] = {}
        self.failures: list[Exception] | None = None  # of handlers, where a test wants them
        self.heartbeat = Heartbeat(options.ping_interval, options.ping_timeout)

    # -- as python-socketio sees it

    def generate_id(self) -> str:
        """A new sid: this worker's token and 120 random bits."""
        return self.token + secrets.token_urlsafe(15)

    def renew_token(self) -> None:
        """A name of this process's own, not one inherited by a fork."""
        self.token = secrets.token_hex(TOKEN_LENGTH // 2)

    def start(self) -> None:
        """Begin the heartbeats."""
        self.heartbeat.start()

    def shutdown(self) -> None:
        self.heartbeat.stop()

    def disconnect(self, sid: str | None = None) -> None:
        """Close one connection, or all."""
        for connection in [self.sockets[sid]] if sid in self.sockets else [] if sid else list(self.sockets.values()):
            connection.close(CloseCode.NORMAL, "server disconnect")

    @property
    def polled(self) -> bool:
        """Whether a client with a session polls, or is still to fetch the end of its session."""
        return any(connection.ws is None and (connection.closed or connection.viewer is not None)
                   for connection in self.sockets.values())

    # -- from connections

    def read(self, connection: Connection, payload: str | bytes) -> Any:
        """Decode a message where it arrives, so that a wrong one is told at once.  Raises PacketError."""
        return self.hooks.read(connection, payload)

    def deliver(self, connection: Connection, item: Any) -> None:
        """Handle a message in its turn; errors of handlers are logged and end nothing but the message."""
        try:
            self.hooks.handle(connection, item)
        except PacketError as error:
            connection.close(CloseCode.PROTOCOL_ERROR, str(error))
        except Exception as error:
            log.exception("a message of %s could not be handled", connection.sid)
            if self.failures is not None:
                self.failures.append(error)

    def ended(self, connection: Connection, ending: Ending) -> None:
        """A connection is over; may be called from the hub, so nothing in it may block."""
        if connection.ws is not None:
            self.closes(connection.ws.failed)
        self.hooks.closed(connection, ending)

    def closes(self, code: int) -> None:
        """Count connections that are ended because of what their clients sent."""
        if code in BROKEN:
            self.hooks.count("oversizeClosed" if code == CloseCode.TOO_BIG else "protocolClosed")

    def forget(self, connection: Connection) -> None:
        self.sockets.pop(connection.sid, None)
        self.gate.closed(connection.sid)

    # -- HTTP

    def handle_request(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI face of `/socket.io/`."""
        cors: list[tuple[str, str]] = []
        try:
            self.turnstile.judge(environ)
            cors = self.origins.headers(environ)
            return self._answer(environ, start_response, cors)
        except Refused as refused:
            told = strict_dumps({"code": int(refused.code), "message": str(refused)}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(told)))]
            headers += [*refused.headers, *cors]
            start_response(refused.status, headers)
            return [told]
        except PermissionError as error:
            told = strict_dumps({"code": int(Refusal.FORBIDDEN), "message": str(error)}).encode()
            start_response("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(told)))])
            return [told]

    def _answer(self, environ: Environ, start_response: StartResponse, cors: list[tuple[str, str]]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            start_response("204 No Content", cors)
            return []
        query = parse_qs(environ.get("QUERY_STRING", ""))
        transport, sid = _one(query, "transport"), _one(query, "sid")
        if _one(query, "EIO") != "4":
            raise self._other_version(environ, _one(query, "EIO"))
        if transport not in ("polling", "websocket"):
            raise Refused(Refusal.UNKNOWN_TRANSPORT, "Transport unknown")
        upgrade = transport == "websocket" and sid is not None
        if not self.options.upgrades if upgrade else transport not in self.options.transports:
            raise Refused(Refusal.UNKNOWN_TRANSPORT, "the server allows no upgrades (WSAPP_ALLOW_UPGRADES)" if upgrade
                          else f"the server does not serve {transport} (WSAPP_TRANSPORTS)")
        if transport == "websocket":
            return self._websocket(environ, method, sid)
        if sid is None:
            if method != "GET":
                raise Refused(Refusal.BAD_HANDSHAKE_METHOD, "Bad handshake method")
            return self._open_polling(environ, start_response, cors)
        connection = self._known(sid)
        if connection.ws is not None:
            raise Refused(Refusal.BAD_REQUEST, "the session has been upgraded")
        if method == "GET":
            return self._get(connection, environ, start_response, cors)
        if method == "POST":
            return self._post(connection, environ, start_response, cors)
        raise Refused(Refusal.BAD_REQUEST, "GET or POST", "405 Method Not Allowed", [("Allow", "GET, POST, OPTIONS")])

    def _other_version(self, environ: Environ, version: str | None) -> Refused:
        """Clients of Socket.IO 2.x show their user nothing of the answer, so the log tells it too."""
        self.hooks.count("versionsRefused")
        theirs = "Socket.IO 2.x" if version == "3" else "another protocol"
        told = (f"Unsupported protocol version: EIO={(version or '')[:10]!r} is {theirs}; "
                "this server needs EIO=4: Socket.IO 3 or 4 (JavaScript), python-socketio 5")
        self._lines.warning(client_address(environ, self.gate.options.proxies), "refused a client: %s", told)
        return Refused(Refusal.UNSUPPORTED_PROTOCOL_VERSION, told)

    def _known(self, sid: str) -> Connection:
        try:
            return self.sockets[sid]
        except KeyError:
            raise Refused(Refusal.UNKNOWN_SID, "Session ID unknown") from None

    def admit(self, environ: Environ) -> None:
        """Have room for another connection.  Raises what `Gate.admit` raises."""
        victim = self.gate.admit(environ)
        if victim is not None:
            connection = self.sockets.get(victim)
            if connection is not None:
                connection.broke(CloseCode.TRY_AGAIN_LATER, "nothing was joined, and others want the place")
            self.gate.closed(victim)

    def _admit(self, environ: Environ) -> None:
        if self.draining:
            self._drained.warning("", "refused a client: this worker takes nobody in: it leaves, or is drained "
                                  "(wsapp drain --undo)")
            raise Refused(Refusal.FORBIDDEN, "the server is restarting", UNAVAILABLE, [("Retry-After", "1")])
        try:
            self.admit(environ)
        except TooMany as error:
            raise Refused(Refusal.FORBIDDEN, str(error), UNAVAILABLE,
                          [("Retry-After", str(error.retry_after))]) from error
        except WsappError as error:
            status = UNAVAILABLE if error.retryable else "401 Unauthorized"
            again = ("Retry-After", "5") if error.retryable else ("WWW-Authenticate", BEARER)
            raise Refused(Refusal.FORBIDDEN, f"{error.code}: {error}", status, [again]) from error

    def _new(self, environ: Environ, sid: str) -> Connection:
        connection = Connection(self, sid)
        self.sockets[connection.sid] = connection
        self.gate.opened(connection.sid, environ)
        self.hooks.opened(connection, environ)
        return connection

    def _hello(self, sid: str, upgrades: list[str]) -> Frame:
        """The OPEN packet."""
        return Frame(b"0" + strict_dumps({
            "sid": sid, "upgrades": upgrades,
            "pingInterval": round(self.options.ping_interval * 1000),
            "pingTimeout": round(self.options.ping_timeout * 1000),
            "maxPayload": self.options.max_message}).encode())

    def _websocket(self, environ: Environ, method: str, sid: str | None) -> Iterable[bytes]:
        if method != "GET" or environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            raise Refused(Refusal.BAD_REQUEST, "Bad request: a WebSocket begins with GET and Upgrade: websocket")
        handler = environ.get("wsapp.handler")
        if handler is None:
            raise Refused(Refusal.BAD_REQUEST, "this server was not started with worker_class = "
                          "'wsapp.transport.worker.Worker'", "500 Internal Server Error")
        connection = self._known(sid) if sid else None
        if connection is None:
            self._admit(environ)
        elif connection.closed:
            raise Refused(Refusal.UNKNOWN_SID, "Session ID unknown")
        try:
            key = check_handshake(environ)
        except HandshakeError as error:
            raise Refused(Refusal.BAD_REQUEST, str(error), error.status, error.headers) from error
        headers = [("Sec-WebSocket-Accept", accept_header(key))]
        offered = first_subprotocol(environ)
        if offered:
            headers.append(("Sec-WebSocket-Protocol", offered))
        squeeze = self._squeezing(environ, headers)
        if connection is not None:
            sock, early = switch_protocols(handler, headers)
            if not connection.open_probe(sock, early, squeeze):
                refuse(sock, CloseCode.PROTOCOL_ERROR, "the session has a WebSocket already")
            return []
        sid = self.generate_id()
        sock, early = switch_protocols(handler, headers, self._hello(sid, []).ws)
        connection = self._new(environ, sid)
        connection.open_websocket(sock, early, squeeze)
        self.heartbeat.add(connection)
        return []

    def _squeezing(self, environ: Environ, headers: list[tuple[str, str]]) -> Squeeze | None:
        """Agree on permessage-deflate where it is switched on and the client offers it."""
        if not self.options.deflate:
            return None
        agreed = negotiate(environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS", ""))
        if agreed is None:
            return None
        headers.append(("Sec-WebSocket-Extensions", agreed))
        return self.squeeze

    def _open_polling(self, environ: Environ, start_response: StartResponse,
                      cors: list[tuple[str, str]]) -> Iterable[bytes]:
        self._admit(environ)
        connection = self._new(environ, self.generate_id())
        upgrades = ["websocket"] if self.options.upgrades and environ.get("wsapp.handler") is not None else []
        packets = connection.open_polling(self._hello(connection.sid, upgrades))
        self.heartbeat.add(connection)
        return _payload(packets, environ, start_response, cors)

    def _get(self, connection: Connection, environ: Environ, start_response: StartResponse,
             cors: list[tuple[str, str]]) -> Iterable[bytes]:
        handler = environ.get("wsapp.handler")
        try:
            with Departure(getattr(handler, "socket", None), connection.poll_cancelled):
                packets = connection.poll(self.options.ping_interval + self.options.ping_timeout)
        except PacketError as error:
            raise Refused(Refusal.BAD_REQUEST, str(error)) from error
        if not packets:
            raise Refused(Refusal.UNKNOWN_SID, "Session ID unknown")
        return _payload(packets, environ, start_response, cors)

    def _post(self, connection: Connection, environ: Environ, start_response: StartResponse,
              cors: list[tuple[str, str]]) -> Iterable[bytes]:
        if connection.closed:  # it is kept for its last GET only
            raise Refused(Refusal.UNKNOWN_SID, "Session ID unknown")
        length = environ.get("CONTENT_LENGTH", "")
        if "HTTP_TRANSFER_ENCODING" in environ or not (length.isascii() and length.isdigit()):
            raise Refused(Refusal.BAD_REQUEST, "a POST needs a Content-Length", "411 Length Required",
                          [("Connection", "close")])
        if int(length) > connection.max_message:
            connection.broke(CloseCode.TOO_BIG, "the payload is too large")
            raise Refused(Refusal.BAD_REQUEST, f"a payload may have {connection.max_message} bytes",
                          "413 Content Too Large", [("Connection", "close")])
        if connection.posting:
            connection.broke(CloseCode.PROTOCOL_ERROR, "two POSTs at once")
            raise Refused(Refusal.BAD_REQUEST, "two POSTs at once", headers=[("Connection", "close")])
        connection.posting = True
        try:
            self._take(connection, environ, int(length))
        finally:
            connection.posting = False
        start_response("200 OK", [CONTENT, ("Content-Length", "2"), *cors])
        return [b"ok"]

    def _take(self, connection: Connection, environ: Environ, length: int) -> None:
        """Read the packets of a POST.  Raises Refused."""
        body = _read(environ["wsgi.input"], length)
        if len(body) < length:
            connection.broke(CloseCode.PROTOCOL_ERROR, "the payload was cut short")
            if getattr(environ.get("wsapp.handler"), "timed_out", False):
                raise Refused(Refusal.BAD_REQUEST, "the payload took too long (WSAPP_REQUEST_TIMEOUT)",
                              "408 Request Timeout", [("Connection", "close")])
            raise Refused(Refusal.BAD_REQUEST, "the payload was cut short")
        try:
            connection.post(body)
        except PacketError as error:
            raise Refused(Refusal.BAD_REQUEST, str(error)) from error


def _read(stream: Any, length: int) -> bytes:
    """The body, or nothing of one that ends too early."""
    try:
        body: bytes = stream.read(length)
    except OSError:  # how pywsgi says so
        return b""
    return body


def _one(query: dict[str, list[str]], name: str) -> str | None:
    values = query.get(name)
    return values[0] if values else None


def _payload(packets: list[bytes], environ: Environ, start_response: StartResponse,
             cors: list[tuple[str, str]]) -> list[bytes]:
    body = SEPARATOR.join(packets)
    headers = [CONTENT, ("Cache-Control", "no-store"), *cors]
    if len(body) >= COMPRESS_FROM and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        body = gzip.compress(body, 1)
        headers.append(("Content-Encoding", "gzip"))
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [body]
