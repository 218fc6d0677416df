"""The WebSocket side of a connection: handshake (RFC 6455 section 4.2), messages in, frames out, close codes.

The HTTP request has been judged (origin, limits, session) before `accept` answers 101, so that a refusal is an
ordinary HTTP response.
"""

from __future__ import annotations

import _socket
import base64
import binascii
import hashlib
import io
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import gevent

from wsapp.errors import CloseCode
from wsapp.transport.deflate import inflate
from wsapp.transport.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    FrameError,
    FrameParser,
    Inflate,
    Squeeze,
    encode,
    encode_close,
    joined,
    parse_close,
)
from wsapp.transport.outbox import Outbox

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # RFC 9110 section 5.6.2
GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MOST_PONGS: Final = 16  # PINGs of one read that are answered each
BREATH: Final = 0.01  # seconds between two turns of inflating a client's messages
CLOSE_GRACE: Final = 5.0  # seconds for the peer to answer a close frame


class HandshakeError(Exception):
    """The upgrade is refused with an HTTP status."""

    def __init__(self, status: str, message: str, headers: list[tuple[str, str]] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or []


def check_handshake(environ: dict[str, Any]) -> str:
    """The client's key, if the request is an opening handshake of RFC 6455 section 4.2.1.  Raises HandshakeError."""
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        raise HandshakeError("400 Bad Request", "a WebSocket needs HTTP/1.1")
    if environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ:
        raise HandshakeError("400 Bad Request", "an opening handshake has no body")
    connection = [token.strip() for token in environ.get("HTTP_CONNECTION", "").lower().split(",")]
    if "upgrade" not in connection:
        raise HandshakeError("400 Bad Request", "the Connection header must say Upgrade")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION") != "13":
        raise HandshakeError("426 Upgrade Required", "WebSocket version 13 only", [("Sec-WebSocket-Version", "13")])
    key: str = environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 16:
        raise HandshakeError("400 Bad Request", "Sec-WebSocket-Key must be 16 bytes in base64")
    return key


def first_subprotocol(environ: dict[str, Any]) -> str:
    """The first subprotocol that the client offers, or "".  Clients that offer some fail unless one of them is chosen
    (WHATWG WebSockets, "establish a WebSocket connection"); the reference server of Socket.IO takes the first too."""
    offered: str = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").partition(",")[0].strip()
    return offered if TOKEN.fullmatch(offered) else ""


def accept_header(key: str) -> str:
    """Sec-WebSocket-Accept for a key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()).decode()


def switch_protocols(handler: Any, headers: list[tuple[str, str]], first: bytes = b"") -> tuple[Any, bytes]:
    """Answer 101 on a pywsgi handler, with the `first` frame right behind it, and take its socket away; returns the
    raw socket and bytes already read.

    The handler's greenlet ends after this; the connection lives on under the hub alone.
    """
    told = [("Upgrade", "websocket"), ("Connection", "Upgrade"), *headers]
    lines = "".join(f"{name}: {value}\r\n" for name, value in told)
    sock = handler.socket
    answer = f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode() + first
    try:
        sent = sock._sock.send(answer)  # past gevent, which would make a timer for it: there is room for so little
    except BlockingIOError:
        sent = 0
    if sent < len(answer):
        sock.sendall(answer[sent:])
    return detach(handler)


def detach(handler: Any) -> tuple[_socket.socket, bytes]:
    """Take the plain socket of a pywsgi handler away, with bytes already read.  101 was answered past pywsgi: the
    handler has nothing more to send, and ends."""
    sock = handler.socket
    sock.settimeout(0.0)
    early = _read_ahead(handler.rfile)
    handler.status, handler.code, handler.headers_sent = b"101 Switching Protocols", 101, True
    handler.response_headers, handler.provided_content_length = [], None
    handler.close_connection = True
    handler.socket = None
    return _socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach()), early


def refuse(sock: Any, code: int, reason: str) -> None:
    """Close a WebSocket right after its handshake: the peer may speak the protocol, but not here."""
    WebSocket(sock, _unheard, _unheard, max_message=0, max_bytes=1024, max_age=CLOSE_GRACE).begin_closed(code, reason)


def _unheard(*_: Any) -> None:
    return None


def _read_ahead(rfile: io.BufferedReader) -> bytes:
    """What the handler read past the request: frames of a client that did not wait for the 101."""
    try:
        early = rfile.peek(1)
    except (BlockingIOError, TimeoutError):
        return b""
    return rfile.read(len(early)) if early else b""


class WebSocket:
    """One open WebSocket.  `on_message(opcode, payload)` gets text and binary; `on_closed(reason)` comes once.

    `send(frame)` costs one send() when the client reads.  With `squeeze` permessage-deflate has been agreed on;
    `expand` is its other direction, if not the one without a context.
    """

    __slots__ = ("_closing", "_on_closed", "_on_message", "_parser", "_paused", "_squeeze", "outbox")

    def __init__(self, sock: Any, on_message: Callable[[int, bytes], None], on_closed: Callable[[str], None], *,
                 max_message: int, max_bytes: int, max_age: float, on_full: Callable[[], None] | None = None,
                 squeeze: Squeeze | None = None, expand: Inflate | None = None) -> None:
        self._on_message, self._on_closed = on_message, on_closed
        self._squeeze = squeeze
        self._parser = FrameParser(max_message, (expand or inflate) if squeeze is not None else None)
        self.outbox = Outbox(sock, self._data, on_closed, max_bytes, max_age, on_full)
        self.outbox.squeezed = squeeze is not None
        self._closing = self._paused = False

    def allow(self, max_message: int) -> None:
        """From now on messages may have so many bytes."""
        self._parser.max_size = max_message

    def pause(self) -> None:
        """Take no further messages."""
        self._paused = True
        self.outbox.pause()

    def resume(self) -> None:
        """Take messages again."""
        self._paused = False
        if self._parser.more:
            gevent.spawn(self._go_on)
        else:
            self.outbox.resume()

    @property
    def failed(self) -> int:
        """The close code for what the peer did wrong; 0 for nothing."""
        failure = self._parser.failure
        return failure.code if failure is not None else 0

    def start(self, early: bytes = b"") -> None:
        """Begin to read; `early` came with the handshake."""
        if early:
            self._data(early)
        if not self.outbox.closed:
            self.outbox.start()

    def begin_closed(self, code: int, reason: str) -> None:
        """Say goodbye first, then wait for the peer's."""
        self.close(code, reason)
        self.start()

    def send(self, frame: Frame) -> None:
        """Pass a shared frame on."""
        self.outbox.write(frame.ws if self._squeeze is None else frame.squeezed(self._squeeze))

    def send_all(self, frames: Iterable[Frame]) -> None:
        """Pass shared frames on in one piece."""
        self.outbox.write(joined(frames, self._squeeze))

    def cut(self, code: int, reason: str, grace: float) -> None:
        """As `close`, for a client that does not read: what waits is dropped, and the code is what it finds if it
        reads again within `grace` seconds."""
        if not self._closing:
            self._closing = True
            self.outbox.cut(encode_close(code, reason), grace)

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame behind what waits and end the connection when the peer answers, or after a grace."""
        if self._closing:
            return
        self._closing = True
        self.outbox.write(encode_close(code, reason))
        self.outbox.finish(CLOSE_GRACE)

    def _data(self, data: bytes) -> None:
        if self._parser.failure is not None:
            return  # the rest of what was on its way when the connection failed
        pings: list[bytes] = []
        for opcode, payload in self._parser.feed(data):
            if opcode == TEXT or opcode == BINARY:
                if not self._closing:
                    self._on_message(opcode, payload)
            elif opcode == PING:
                pings.append(payload)
            elif opcode == CLOSE:
                self._answer(pings)
                self._peer_closed(payload)
                return
        if pings:
            self._answer(pings)
        failure = self._parser.failure
        if failure is not None:
            self._fail(failure)
        elif self._parser.more:
            self.outbox.pause()
            gevent.spawn_later(BREATH, self._go_on)

    def _go_on(self) -> None:
        """The rest of what was read, in a turn of its own: others have been served meanwhile."""
        if self._paused or self.outbox.closed or not self._parser.more:
            return
        self._data(b"")
        if not self._parser.more and not self._paused:
            self.outbox.resume()

    def _answer(self, pings: list[bytes]) -> None:
        """Of a flood only the newest (RFC 6455 section 5.5.3): ten thousand in a read would keep all others waiting."""
        if len(pings) > MOST_PONGS:
            del pings[:-1]
        for payload in pings:
            self.outbox.write(encode(payload, PONG))

    def _peer_closed(self, payload: bytes) -> None:
        try:
            code = parse_close(payload)
        except FrameError as error:
            self._fail(error)
            return
        if not self._closing:
            self._closing = True
            self.outbox.write(encode_close(CloseCode.NORMAL if code == 1005 else code))
        self.outbox.half_close(CLOSE_GRACE)

    def _fail(self, error: FrameError) -> None:
        if self._closing:
            self.outbox.half_close(CLOSE_GRACE)
            return
        self._closing = True
        self.outbox.write(encode_close(error.code, error.reason))
        # Not at once: closing with unread bytes would make the kernel reset the connection, and the code be lost.
        self.outbox.hang_up(CLOSE_GRACE)
