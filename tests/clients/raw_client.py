"""Clients without a library, for what the libraries would never send."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final, Self

import websocket

from tests.harness import DEADLINE, Reply, Server, http

CLOSE: Final = websocket.ABNF.OPCODE_CLOSE


class RawSocket:
    """One websocket with the Engine.IO and Socket.IO handshakes done by hand."""

    def __init__(self, server: Server, auth: dict[str, Any] | None = None, connect: bool = True,
                 **options: Any) -> None:
        self._ws = websocket.create_connection(server.socket_url, timeout=DEADLINE, **options)
        self.opened: dict[str, Any] = json.loads(self._text()[1:])
        self.told: dict[str, Any] = {}
        self.closed_with: int | None = None
        if connect:
            self.send("40" + (json.dumps(auth) if auth else ""))
            self.told = json.loads(self.packet("40")[2:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ws.close(timeout=1)

    @property
    def local_port(self) -> int:
        """Our end of the TCP connection."""
        assert self._ws.sock is not None
        return int(self._ws.sock.getsockname()[1])

    def send(self, text: str) -> None:
        """One text frame, masked as it should be."""
        self._ws.send(text)

    def fragments(self, *parts: str) -> None:
        """One message in several frames."""
        for place, part in enumerate(parts):
            opcode = websocket.ABNF.OPCODE_TEXT if place == 0 else websocket.ABNF.OPCODE_CONT
            last = int(place == len(parts) - 1)
            self._ws.send_frame(websocket.ABNF(last, 0, 0, 0, opcode, 1, part.encode()))

    def bytes(self, data: bytes) -> None:
        """Bytes past the library."""
        sock = self._ws.sock
        assert sock is not None
        sock.sendall(data)

    def unmasked(self, text: str) -> None:
        """A text frame without a mask, which RFC 6455 section 5.1 forbids to clients."""
        body = text.encode()
        assert len(body) < 126
        self.bytes(struct.pack("!BB", 0x81, len(body)) + body)

    def binary(self, data: bytes) -> None:
        """One binary frame, masked."""
        self._ws.send_binary(data)

    def frame(self, opcode: int, data: bytes, last: int = 1) -> None:
        """One frame as told, masked."""
        self._ws.send_frame(websocket.ABNF(last, 0, 0, 0, opcode, 1, data))

    def anything(self, or_close: bool = False) -> str | bytes:
        """The next packet, whatever it is; with `or_close` an empty one when it is a close frame."""
        opcode, data = self._ws.recv_data()
        if opcode == CLOSE:
            self.closed_with = _code(data)
            assert or_close, f"closed with {self.closed_with}"
            return ""
        return bytes(data).decode() if opcode == websocket.ABNF.OPCODE_TEXT else bytes(data)

    def _text(self) -> str:
        opcode, data = self._ws.recv_data()
        if opcode == CLOSE:
            raise AssertionError(f"closed with {_code(data)}")
        return bytes(data).decode()

    def packet(self, prefix: str) -> str:
        """The next packet that begins so; PINGs are answered, others skipped."""
        while True:
            text = self._text()
            if text == "2":
                self.send("3")
            if text.startswith(prefix):
                return text

    def event(self, name: str) -> list[Any]:
        """The arguments of the next event of a name."""
        while True:
            got: list[Any] = json.loads(self.packet("42")[2:])
            if got[0] == name:
                return got[1:]

    def request(self, text: str, call: int = 7) -> Any:
        """Send `42<call>` + text as it is; the first argument of the ack."""
        self.send(f"42{call}{text}")
        return json.loads(self.packet(f"43{call}")[2 + len(str(call)):])[0]

    def close_code(self) -> int:
        """Read until the server's close frame; its code."""
        while True:
            opcode, data = self._ws.recv_data()
            if opcode == CLOSE:
                return _code(data)


def close_code(ws: websocket.WebSocket) -> int:
    """Read until the close frame of a bare socket; its code."""
    while True:
        opcode, data = ws.recv_data()
        if opcode == CLOSE:
            return _code(data)


def _code(data: bytes) -> int:
    return int(struct.unpack("!H", data[:2])[0]) if len(data) >= 2 else 1005


class RawPolling:
    """One polling transport by hand."""

    def __init__(self, server: Server, headers: Mapping[str, str] | None = None) -> None:
        self.opening = http(server.polling_url, headers=headers)
        assert self.opening.status == 200, self.opening
        self.sid = str(json.loads(self.opening.text[1:])["sid"])
        self._url = f"{server.polling_url}&sid={self.sid}"

    def post(self, body: str | bytes) -> Reply:
        data = body.encode() if isinstance(body, str) else body
        return http(self._url, data, headers={"Content-Type": "text/plain;charset=UTF-8"})

    def get(self) -> Reply:
        return http(self._url)
