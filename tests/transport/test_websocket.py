"""The WebSocket on real sockets: handshake, messages, close codes and how the TCP connection ends."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.socket
import pytest

from tests.transport.test_frames import sent
from wsapp.errors import CloseCode
from wsapp.transport import websocket
from wsapp.transport.deflate import deflate
from wsapp.transport.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    RSV1,
    TEXT,
    Frame,
    Squeeze,
    encode,
    encode_close,
)
from wsapp.transport.websocket import HandshakeError, WebSocket, accept_header, check_handshake, switch_protocols

PATIENCE = 5.0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def request(**changes: str | None) -> dict[str, Any]:
    environ = {"SERVER_PROTOCOL": "HTTP/1.1", "HTTP_CONNECTION": "keep-alive, Upgrade", "HTTP_UPGRADE": "websocket",
               "HTTP_SEC_WEBSOCKET_VERSION": "13", "HTTP_SEC_WEBSOCKET_KEY": KEY, **changes}
    return {name: value for name, value in environ.items() if value is not None}


def test_the_example_of_rfc_6455() -> None:
    assert check_handshake(request()) == KEY
    assert accept_header(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(("changes", "status"), [
    ({"SERVER_PROTOCOL": "HTTP/1.0"}, "400"),
    ({"HTTP_CONNECTION": None}, "400"),
    ({"HTTP_CONNECTION": "keep-alive"}, "400"),
    ({"HTTP_CONNECTION": "not-upgrade"}, "400"),
    ({"HTTP_SEC_WEBSOCKET_VERSION": None}, "426"),
    ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, "426"),
    ({"HTTP_SEC_WEBSOCKET_KEY": None}, "400"),
    ({"HTTP_SEC_WEBSOCKET_KEY": "c2hvcnQ="}, "400"),
    ({"HTTP_SEC_WEBSOCKET_KEY": "!" * 24}, "400"),
    ({"HTTP_SEC_WEBSOCKET_KEY": "é" * 24}, "400"),
])
def test_what_is_no_handshake(changes: dict[str, str | None], status: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        check_handshake(request(**changes))
    assert caught.value.status.startswith(status)
    assert (("Sec-WebSocket-Version", "13") in caught.value.headers) == (status == "426")


def until(met: Callable[[], object]) -> None:
    with gevent.Timeout(PATIENCE):
        while not met():
            gevent.sleep(0.001)


class Open:
    """An open WebSocket and the raw socket of its client."""

    def __init__(self, squeeze: Squeeze | None = None, max_message: int = 1000) -> None:
        ours, self.client = socket.socketpair()
        ours.setblocking(False)
        self.client.setblocking(False)
        self.messages: list[tuple[int, bytes]] = []
        self.closed: list[str] = []
        self.ws = WebSocket(ours, lambda opcode, payload: self.messages.append((opcode, payload)), self.closed.append,
                            max_message=max_message, max_bytes=1_000_000, max_age=30.0, squeeze=squeeze)
        self.raw = b""

    def get(self, wanted: bytes) -> None:
        """The next bytes are these."""
        def come() -> bool:
            self._receive()
            return len(self.raw) >= len(wanted)
        until(come)
        assert self.raw[:len(wanted)] == wanted
        self.raw = self.raw[len(wanted):]

    def _receive(self) -> bool:
        try:
            data = self.client.recv(65536)
        except BlockingIOError:
            return True
        self.raw += data
        return bool(data)

    def ended(self) -> None:
        """Nothing more comes but the end of the TCP connection."""
        until(lambda: not self._receive())
        assert self.raw == b""


@pytest.fixture
def opened() -> Iterator[Open]:
    made = Open()
    yield made
    made.ws.outbox.abort("the test is over")
    made.client.close()


def test_messages_both_ways(opened: Open) -> None:
    opened.ws.start()
    opened.client.send(sent(TEXT, b"hi") + sent(BINARY, b"\x00", fin=False) + sent(CONTINUATION, b"\x01"))
    until(lambda: len(opened.messages) == 2)
    assert opened.messages == [(TEXT, b"hi"), (BINARY, b"\x00\x01")]
    opened.ws.send(Frame(b"42[]"))
    opened.get(b"\x81\x0442[]")


def test_what_came_with_the_handshake_comes_first(opened: Open) -> None:
    opened.client.send(sent(TEXT, b"two"))
    opened.ws.start(sent(TEXT, b"one"))
    until(lambda: len(opened.messages) == 2)
    assert opened.messages == [(TEXT, b"one"), (TEXT, b"two")]


def test_a_frame_that_came_in_part_with_the_handshake(opened: Open) -> None:
    data = sent(TEXT, b"hello")
    opened.ws.start(data[:4])
    opened.client.send(data[4:])
    until(lambda: opened.messages)
    assert opened.messages == [(TEXT, b"hello")]


def test_a_ping_is_answered_with_its_payload_and_a_pong_is_not(opened: Open) -> None:
    opened.ws.start()
    opened.client.send(sent(0xA, b"unasked") + sent(PING, b"are you there"))
    opened.get(encode(b"are you there", 0xA))


def test_of_a_flood_of_pings_the_newest_is_answered(opened: Open) -> None:
    opened.ws.start()
    opened.client.send(b"".join(sent(PING, str(number).encode()) for number in range(16)))
    opened.get(b"".join(encode(str(number).encode(), 0xA) for number in range(16)))
    opened.client.send(b"".join(sent(PING, str(number).encode()) for number in range(2000)) + sent(CLOSE, b""))
    opened.get(encode(b"1999", 0xA) + encode_close(1000))


@pytest.mark.parametrize(("payload", "answer"), [
    (b"", 1000), ((1000).to_bytes(2, "big"), 1000), ((1001).to_bytes(2, "big") + b"away", 1001),
    ((4321).to_bytes(2, "big"), 4321), (b"\x03", 1002), ((1005).to_bytes(2, "big"), 1002),
    ((2000).to_bytes(2, "big"), 1002), ((1000).to_bytes(2, "big") + b"\xff", 1007),
])
def test_the_clients_close_is_answered_and_tcp_ends(opened: Open, payload: bytes, answer: int,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_GRACE", 0.05)
    opened.ws.start()
    opened.client.send(sent(CLOSE, payload) + sent(TEXT, b"after"))
    opened.get(bytes((0x88,)))
    length = opened.raw[0]
    assert opened.raw[1:3] == answer.to_bytes(2, "big")
    opened.raw = opened.raw[1 + length:]
    opened.ended()
    until(lambda: opened.closed)
    assert opened.messages == []
    assert len(opened.closed) == 1


@pytest.mark.parametrize(("data", "code"), [
    (encode(b"unmasked"), 1002), (sent(TEXT, b"\xff"), 1007), (sent(TEXT, b"x" * 1001), 1009), (sent(3, b""), 1002),
])
@pytest.mark.parametrize("early", [False, True])
def test_a_breach_is_told_with_its_code(opened: Open, data: bytes, code: int, early: bool,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_GRACE", 0.25)
    opened.client.send(sent(TEXT, b"before") + data)
    if early:
        opened.ws.start(opened.ws.outbox._sock.recv(65536))
    else:
        opened.ws.start()
    opened.client.send(sent(TEXT, b"still talking") * 20)
    until(lambda: opened._receive() and opened.raw)
    assert (opened.raw[0], int.from_bytes(opened.raw[2:4], "big")) == (0x88, code)
    opened.ws.send(Frame(b"after the close frame"))
    opened.raw = opened.raw[2 + opened.raw[1]:]
    until(lambda: opened.closed)
    assert opened.raw == b""
    assert opened.messages == [(TEXT, b"before")]


def test_our_close_is_told_once_and_ends_when_the_client_answers(opened: Open) -> None:
    opened.ws.start()
    opened.ws.close(CloseCode.SERVICE_RESTART, "restart")
    opened.ws.close(CloseCode.NORMAL, "again")
    opened.ws.send(Frame(b"after"))
    opened.get(encode_close(1012, "restart"))
    opened.client.send(sent(TEXT, b"late") + sent(CLOSE, (1012).to_bytes(2, "big")))
    opened.ended()
    until(lambda: opened.closed)
    assert (opened.messages, opened.closed) == ([], ["closed"])


def test_our_close_ends_after_a_grace(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_GRACE", 0.02)
    opened.ws.start()
    opened.ws.close(CloseCode.KICKED, "kicked")
    opened.get(encode_close(4502, "kicked"))
    opened.ended()


def test_a_client_that_says_goodbye_and_does_not_read_is_let_go(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_GRACE", 0.02)
    opened.ws.start()
    while not opened.ws.outbox.waiting_bytes:
        opened.ws.send(Frame(b"x" * 10_000))
    opened.client.send(sent(CLOSE))
    until(lambda: opened.closed)


def test_the_close_frame_comes_behind_what_waits(opened: Open) -> None:
    opened.ws.start()
    frame, count = Frame(b"x" * 10_000), 0
    while not opened.ws.outbox.waiting_bytes:
        opened.ws.send(frame)
        count += 1
    opened.ws.close(CloseCode.GOING_AWAY, "bye")
    opened.get(frame.ws * count + encode_close(1001, "bye"))


def test_the_handler_gives_its_socket_away() -> None:
    ours, client = socket.socketpair()
    sock = gevent.socket.socket(fileno=ours.detach())
    client.sendall(sent(TEXT, b"did not wait"))
    handler: Any = SimpleNamespace(socket=sock, rfile=io.BufferedReader(gevent.socket.SocketIO(sock, "rb"), 8192))
    raw, early = switch_protocols(handler, [("Sec-WebSocket-Accept", "x")])
    answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nSec-WebSocket-Accept: x\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")
    assert early == sent(TEXT, b"did not wait")
    assert (handler.socket, handler.close_connection, handler.code) == (None, True, 101)
    sock.close()
    raw.send(b"alive")
    assert client.recv(10) == b"alive"
    raw.close()
    client.close()


# -- compressed


BOMB = sent(TEXT, deflate(b"x" * 100_000, 9), bits=RSV1)


@pytest.fixture
def squeezing() -> Iterator[Open]:
    made = Open(lambda payload: deflate(payload, 1), max_message=100_000)
    yield made
    made.ws.outbox.abort("the test is over")
    made.client.close()


def test_each_large_message_has_a_turn_of_its_own(squeezing: Open) -> None:
    turns = 0

    def another_greenlet() -> None:
        nonlocal turns
        while len(squeezing.messages) < 40:
            turns += 1
            gevent.sleep(0)

    beside = gevent.spawn(another_greenlet)
    squeezing.ws.start()
    squeezing.client.send(BOMB * 40)
    until(lambda: len(squeezing.messages) == 40)
    beside.join(1)
    assert turns >= 40
    squeezing.client.send(sent(TEXT, b"still read"))
    until(lambda: squeezing.messages[-1] == (TEXT, b"still read"))


def test_pausing_stops_what_was_read_too(squeezing: Open) -> None:
    squeezing.ws.start()
    squeezing.client.send(BOMB * 5 + sent(TEXT, b"last"))
    with gevent.Timeout(PATIENCE):
        while not squeezing.messages:
            gevent.sleep(0)
    squeezing.ws.pause()
    seen = len(squeezing.messages)
    gevent.sleep(0.02)
    assert len(squeezing.messages) == seen < 5
    squeezing.ws.resume()
    until(lambda: squeezing.messages[-1] == (TEXT, b"last"))
    assert len(squeezing.messages) == 6
    squeezing.client.send(sent(TEXT, b"and on"))
    until(lambda: squeezing.messages[-1] == (TEXT, b"and on"))
