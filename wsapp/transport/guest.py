"""WebSockets of the host application's own routes: what it finds in `environ["wsgi.websocket"]`.

The interface is gevent-websocket's (`receive`, `send`, `close`, `closed`), the frames are ours.  The handshake is
answered when the application first uses the socket, so a route that does not want one answers with plain HTTP.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import gevent
from gevent.event import Event
from geventwebsocket.exceptions import WebSocketError

from wsapp.errors import CloseCode
from wsapp.transport.deflate import Context, agree
from wsapp.transport.frames import CLOSE, PING, PONG, TEXT, Frame, encode
from wsapp.transport.websocket import (
    HandshakeError,
    WebSocket,
    accept_header,
    check_handshake,
    switch_protocols,
)

log = logging.getLogger(__name__)

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

UNSENT: Final = 65_536  # bytes that `send` leaves behind
UNBOUNDED: Final = 2**62  # `send` waits, so its outbox needs no limit
PAUSE: Final = 0.002  # seconds between looks at an outbox that `send` waits for
ENDED: Final = "the WebSocket is closed"


def _anybody(_environ: Environ) -> None:
    return None


@dataclass(frozen=True, slots=True)
class GuestOptions:
    """Sizes in bytes, times in seconds.  `judge` raises PermissionError for the request of a page from elsewhere."""

    max_message: int = 16_777_216
    max_age: float = 30.0
    deflate: bool = False
    deflate_level: int = 1
    judge: Callable[[Environ], None] = _anybody


def wants_websocket(environ: Environ) -> bool:
    """Whether a request asks for a WebSocket."""
    connection = [token.strip() for token in environ.get("HTTP_CONNECTION", "").lower().split(",")]
    return (environ["REQUEST_METHOD"] == "GET" and "upgrade" in connection
            and environ.get("HTTP_UPGRADE", "").lower() == "websocket")


class PacedWebSocket(WebSocket):
    """Goes on to the next frame only when the one before was taken, so that everything is answered in its order."""

    __slots__ = ("_busy", "_failed", "_frames", "news")

    def __init__(self, sock: Any, on_closed: Callable[[str], None], **options: Any) -> None:
        super().__init__(sock, _unused, on_closed, **options)
        self._frames: deque[tuple[int, bytes]] = deque()
        self._busy = self._failed = False
        self.news = Event()

    def take(self) -> tuple[int, bytes] | None:
        """The next message, if it is there.  Taking one says that the one before has been dealt with."""
        self._busy = False
        self._work_off()
        while not self._frames and self._parser.more:
            self._data(b"")
        if self._frames:
            self._busy = True
            return self._frames.popleft()
        self.outbox.resume()
        return None

    def leave(self, code: int, reason: str) -> None:
        """Say goodbye; messages that were not taken are dropped."""
        self.close(code, reason)
        self._busy = False
        self._data(b"")
        self.outbox.resume()

    def _data(self, data: bytes) -> None:
        self._frames.extend(self._parser.feed(data))
        if self._closing:
            self._frames = deque(frame for frame in self._frames if frame[0] == CLOSE)
        self._work_off()
        if self._frames:
            self.outbox.pause()
            self.news.set()

    def _work_off(self) -> None:
        """Deal with control frames up to the next message."""
        while self._frames and not self._busy and self._frames[0][0] >= CLOSE:
            opcode, payload = self._frames.popleft()
            if opcode == PING:
                self.outbox.write(encode(payload, PONG))
            elif opcode == CLOSE:
                self._frames.clear()
                self._failed = True  # what follows a close frame is nobody's
                self._peer_closed(payload)
        failure = self._parser.failure
        if failure is not None and not self._frames and not self._busy and not self._failed:
            self._failed = True
            self._fail(failure)


class HostSocket:
    """One WebSocket, read and written by greenlets of the host application; both may block."""

    def __init__(self, handler: Any, environ: Environ, options: GuestOptions, subprotocol: str = "") -> None:
        self.environ, self._handler, self._options, self._subprotocol = environ, handler, options, subprotocol
        self._key = check_handshake(environ)
        self._ws: PacedWebSocket | None = None
        self._over = self._told = False

    @property
    def path(self) -> str:
        return str(self.environ["PATH_INFO"])

    @property
    def origin(self) -> str | None:
        return self.environ.get("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the client offers."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str:
        return "13"

    @property
    def opened(self) -> bool:
        """Whether the application has used it."""
        return self._ws is not None

    @property
    def closed(self) -> bool:
        """Whether it has ended, for whatever cause."""
        return self._over

    def receive(self) -> str | bytearray | None:
        """The next message: text as str, binary as bytearray; None at the end.  Raises WebSocketError after that."""
        ws = self._open()
        while True:
            taken = ws.take()
            if taken is not None:
                opcode, payload = taken
                return payload.decode() if opcode == TEXT else bytearray(payload)
            if self._over:
                break
            ws.news.clear()
            ws.news.wait()
        if self._told:
            raise WebSocketError(ENDED)
        self._told = True
        return None

    def send(self, message: str | bytes | bytearray | None, binary: bool | None = None) -> None:
        """Send one message; blocks while the peer does not read.  Raises WebSocketError once it is closed."""
        ws = self._open()
        if self._over:
            raise WebSocketError(ENDED)
        data = message.encode() if isinstance(message, str) else bytes(message or b"")
        ws.send(Frame(data, not isinstance(message, str | None) if binary is None else binary))
        while not self._over and ws.outbox.waiting_bytes > UNSENT:
            if ws.outbox.overdue(time.monotonic()):
                ws.outbox.abort("the client does not read")
                raise WebSocketError(ENDED)
            gevent.sleep(PAUSE)

    def close(self, code: int = CloseCode.NORMAL, message: str | bytes = "") -> None:
        """Say goodbye.  Idempotent."""
        reason = message if isinstance(message, str) else message.decode(errors="replace")
        self._open().leave(code, reason)
        self._end("closed")

    def _open(self) -> PacedWebSocket:
        if self._ws is None:
            headers = [("Sec-WebSocket-Accept", accept_header(self._key))]
            if self._subprotocol:
                headers.append(("Sec-WebSocket-Protocol", self._subprotocol))
            context = self._context(headers)
            sock, early = switch_protocols(self._handler, headers)
            self._ws = PacedWebSocket(sock, self._end, max_message=self._options.max_message, max_bytes=UNBOUNDED,
                                      max_age=self._options.max_age, squeeze=context.deflate if context else None,
                                      expand=context.inflate if context else None)
            self._ws.start(early)
        return self._ws

    def _context(self, headers: list[tuple[str, str]]) -> Context | None:
        if not self._options.deflate:
            return None
        terms = agree(self.environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS", ""))
        if terms is None:
            return None
        headers.append(("Sec-WebSocket-Extensions", terms.header))
        return Context(terms, self._options.deflate_level)

    def _end(self, _reason: str) -> None:
        self._over = True
        if self._ws is not None:
            self._ws.news.set()


def behind(socket: HostSocket, application: Application) -> Application:
    """The application as the HTTP server is to call it: once the socket is open there is no response any more, and
    the socket ends when the application returns."""

    def served(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(*status_and_headers: Any) -> Any:
            return _nowhere if socket.opened else start_response(*status_and_headers)

        try:
            answer = application(environ, start)
        except gevent.GreenletExit:
            if socket.opened:
                socket.close(CloseCode.SERVICE_RESTART, "the server restarts")
            raise
        except Exception:
            if not socket.opened:
                raise
            log.exception("the WebSocket of %r failed", socket.path)
            socket.close(CloseCode.INTERNAL)
            return []
        if not socket.opened:
            return answer
        if hasattr(answer, "close"):
            answer.close()
        socket.close()
        return []

    return served


def invite(handler: Any, options: GuestOptions) -> None:
    """Put the socket into the environ of a handler's request.  Raises HandshakeError, also for a page from elsewhere:
    browsers would let it in with the user's cookies."""
    environ, application = handler.environ, handler.application
    try:
        options.judge(environ)
    except PermissionError as error:
        raise HandshakeError("403 Forbidden", str(error)) from error
    named = getattr(application, "app_protocol", None)  # gevent-websocket's way to choose a subprotocol
    wanted = str(named(environ["PATH_INFO"]) or "") if named is not None else ""
    offered = [name.strip() for name in environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")]
    socket = HostSocket(handler, environ, options, wanted if wanted in offered else "")
    environ["wsgi.websocket"], environ["wsgi.websocket_version"] = socket, socket.version
    handler.application = behind(socket, application)


def turn_away(error: HandshakeError) -> Application:
    """The answer to a handshake that is none."""
    def refused(_environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        told = str(error).encode()
        start_response(error.status, [("Content-Type", "text/plain; charset=utf-8"),
                                      ("Content-Length", str(len(told))), *error.headers])
        return [told]

    return refused


def _nowhere(_data: bytes) -> None:
    return None


def _unused(_opcode: int, _payload: bytes) -> None:
    return None
