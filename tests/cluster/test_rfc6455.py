"""RFC 6455 and RFC 7692 by section, on real workers, against an echo in a route of the host application; what breaks
the protocol also against Engine.IO, where the frames are judged the same way.

Every case says what comes back, frame by frame, and the close code; a connection that ended is ended in TCP too.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final, Self

import pytest

from tests.cluster.conftest import Witness
from tests.harness import DEADLINE, Server
from wsapp.transport.websocket import accept_header

pytestmark = pytest.mark.cluster

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
ECHO, ENGINE = "/echo", "/socket.io/?EIO=4&transport=websocket"
TAIL: Final = b"\x00\x00\xff\xff"
HELLO: Final = "Hello-µ@ßöäüàá-UTF-8!!".encode()

Got = tuple[int, bytes]


def frame(opcode: int, data: bytes = b"", flags: int = FIN, mask: bytes = b"\x5a\x00\xff\x21") -> bytes:
    size = len(data)
    head = (struct.pack("!BB", flags | opcode, 0x80 | size) if size < 126 else
            struct.pack("!BBH", flags | opcode, 0xFE, size) if size < 65536 else
            struct.pack("!BBQ", flags | opcode, 0xFF, size))
    whole = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, (struct.pack("!H", code) if code is not None else b"") + reason)


class Peer:
    """One WebSocket without a library."""

    def __init__(self, server: Server, path: str = ECHO, *, extensions: str = "", **changes: str | None) -> None:
        self._sock = socket.create_connection(("127.0.0.1", server.port), DEADLINE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.key = base64.b64encode(os.urandom(16)).decode()
        fields: dict[str, str | None] = {
            "Host": "x", "Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Sec-WebSocket-Key": self.key,
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Extensions": extensions or None,
            **{name.replace("_", "-"): value for name, value in changes.items()}}
        lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value is not None]
        self.send(f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
        self._seen = b""
        head = self._until(b"\r\n\r\n").decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, *data: bytes) -> None:
        self._sock.sendall(b"".join(data))

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._seen:
            self._seen += self._more()
        found, _, self._seen = self._seen.partition(mark)
        return found

    def _more(self) -> bytes:
        data = self._sock.recv(65536)
        assert data, "the connection ended"
        return data

    def _take(self, size: int) -> bytes:
        parts, have = [self._seen], len(self._seen)
        while have < size:
            parts.append(self._more())
            have += len(parts[-1])
        whole = b"".join(parts)
        self._seen = whole[size:]
        return whole[:size]

    def raw(self) -> tuple[int, bytes]:
        """The first byte of the next frame, and its payload."""
        first, second = self._take(2)
        assert not second & 0x80, "frames of a server are not masked"
        size = second
        if second == 126:
            size = int.from_bytes(self._take(2), "big")
        elif second == 127:
            size = int.from_bytes(self._take(8), "big")
        return first, self._take(size)

    def got(self) -> Got:
        first, data = self.raw()
        assert first & FIN and not first & 0x70
        return first & 0x0F, data

    def closed(self) -> int:
        """The code of the close frame, which comes next; then TCP ends, with or without our answer."""
        opcode, data = self.got()
        assert opcode == CLOSE, (opcode, data)
        assert len(data) != 1
        data[2:].decode()
        self.ended()
        return int.from_bytes(data[:2], "big") if data else 1005

    def ended(self) -> None:
        assert self._seen == b""
        try:
            assert self._sock.recv(1) == b""
        except ConnectionResetError:
            pass  # we had sent more than was read


@pytest.fixture(autouse=True)
def _bystanders(witness: Witness) -> Iterator[None]:
    yield
    witness.undisturbed()


@pytest.fixture
def peer(conformance: Server) -> Iterator[Peer]:
    with Peer(conformance) as made:
        assert made.status == 101
        yield made


def open_at(server: Server, path: str) -> Peer:
    made = Peer(server, path)
    assert made.status == 101
    if path == ENGINE:
        assert made.got()[1].startswith(b"0{")
    return made


# -- 4.2: the opening handshake


def test_the_handshake_is_answered(peer: Peer) -> None:
    assert peer.headers["sec-websocket-accept"] == accept_header(peer.key)
    assert (peer.headers["upgrade"], peer.headers["connection"]) == ("websocket", "Upgrade")
    assert "sec-websocket-extensions" not in peer.headers


@pytest.mark.parametrize(("offered", "chosen"), [("graphql-ws", "graphql-ws"), ("v1.wsapp, v2.wsapp", "v1.wsapp"),
                                                 ("not a token", None), ("", None)])
def test_of_the_subprotocols_the_first_is_chosen(conformance: Server, offered: str, chosen: str | None) -> None:
    """A browser that offers some fails the connection unless one of them comes back (section 4.1)."""
    with Peer(conformance, ENGINE, Sec_WebSocket_Protocol=offered) as made:
        assert made.status == 101
        assert made.headers.get("sec-websocket-protocol") == chosen


@pytest.mark.parametrize("path", [ECHO, ENGINE])
@pytest.mark.parametrize(("changes", "status"), [
    ({"Sec_WebSocket_Version": "8"}, 426), ({"Sec_WebSocket_Version": None}, 426), ({"Sec_WebSocket_Key": None}, 400),
    ({"Content_Length": "3"}, 400), ({"Sec_WebSocket_Key": "x"}, 400),
    ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAA"}, 400),
])
def test_a_wrong_handshake_is_refused_in_http(conformance: Server, path: str, changes: dict[str, Any],
                                              status: int) -> None:
    with Peer(conformance, path, **changes) as refused:
        assert refused.status == status
        assert status != 426 or refused.headers["sec-websocket-version"] == "13"


def test_a_route_that_wants_no_websocket_answers_in_http(conformance: Server) -> None:
    with Peer(conformance, "/nowhere") as refused:
        assert refused.status == 404


def test_frames_may_come_with_the_handshake(conformance: Server) -> None:
    with socket.create_connection(("127.0.0.1", conformance.port), DEADLINE) as sock:
        sock.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                     + frame(TEXT, b"early") + close(1000))
        seen = b""
        while data := sock.recv(4096):
            seen += data
        assert seen.endswith(b"\r\n\r\n\x81\x05early\x88\x02\x03\xe8")


def test_a_route_may_speak_first_and_leave(conformance: Server) -> None:
    with Peer(conformance, "/stream") as left:
        assert [left.got() for _ in range(3)] == [(TEXT, f"/stream {n}".encode()) for n in range(3)]
        assert left.got() == (CLOSE, struct.pack("!H", 1000))
    with Peer(conformance, "/stream?fail") as failed:
        assert [failed.got()[0] for _ in range(3)] == [TEXT] * 3
        assert failed.got() == (CLOSE, struct.pack("!H", 1011))


# -- 5.2 to 5.6: framing, fragments, data


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 1_000_000, 4_000_000])
def test_every_size(peer: Peer, opcode: int, size: int) -> None:
    data = b"*" * size if opcode == TEXT else os.urandom(size)
    peer.send(frame(opcode, data))
    assert peer.got() == (opcode, data)


def test_byte_by_byte(peer: Peer) -> None:
    for byte in frame(TEXT, HELLO * 10) + frame(PING, b"p") + frame(BINARY, bytes(300)):
        peer.send(bytes((byte,)))
    assert [peer.got() for _ in range(3)] == [(TEXT, HELLO * 10), (PONG, b"p"), (BINARY, bytes(300))]


def test_many_at_once_keep_their_order(peer: Peer) -> None:
    peer.send(*(frame(TEXT, str(number).encode()) + frame(PING, str(number).encode()) for number in range(500)))
    for number in range(500):
        assert [peer.got(), peer.got()] == [(TEXT, str(number).encode()), (PONG, str(number).encode())]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_fragments_are_joined_and_control_frames_pass_between_them(peer: Peer, size: int) -> None:
    """A PING within a message is answered at once, the message when it is complete."""
    parts = [HELLO[at:at + size] for at in range(0, len(HELLO), size)] or [b""]
    for place, part in enumerate(parts):
        peer.send(frame(CONT if place else TEXT, part, FIN if place == len(parts) - 1 else 0))
        if place < len(parts) - 1:
            peer.send(frame(PING, b"between"))
            assert peer.got() == (PONG, b"between")
    assert peer.got() == (TEXT, HELLO)


@pytest.mark.parametrize("parts", [(b"", b"", b""), (b"", b"x", b""), (b"a",), (b"a", b"b")])
def test_empty_fragments_count_as_nothing(peer: Peer, parts: tuple[bytes, ...]) -> None:
    for place, part in enumerate(parts):
        peer.send(frame(CONT if place else BINARY, part, FIN if place == len(parts) - 1 else 0))
    assert peer.got() == (BINARY, b"".join(parts))


# -- 5.5.2, 5.5.3: PING and PONG


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125])
def test_a_ping_is_answered_with_its_payload(peer: Peer, data: bytes) -> None:
    peer.send(frame(PING, data))
    assert peer.got() == (PONG, data)


def test_a_pong_nobody_asked_for_is_not_answered(peer: Peer) -> None:
    peer.send(frame(PONG), frame(PONG, b"x" * 125), frame(PING, b"now"))
    assert peer.got() == (PONG, b"now")


# -- 5.1, 5.2, 5.4, 5.5: what breaks the protocol

WRONG: list[bytes] = [
    *(frame(TEXT, b"x", FIN | flags) for flags in (RSV1, RSV2, RSV3, RSV1 | RSV2, RSV1 | RSV3, RSV2 | RSV3, 0x70)),
    frame(PING, b"x", FIN | RSV1), frame(CLOSE, b"", FIN | RSV3),
    *(frame(opcode, data) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15) for data in (b"", b"x")),
    frame(PING, b"x" * 126), frame(PONG, b"x" * 126), frame(CLOSE, b"\x03\xe8" + b"x" * 124),
    frame(PING, b"x", 0), frame(PONG, b"x", 0), frame(CLOSE, b"", 0),
    frame(CONT, b"x"), frame(CONT, b"x", 0),
    frame(TEXT, b"x", 0) + frame(TEXT, b"y"), frame(TEXT, b"x", 0) + frame(BINARY, b"y"),
    frame(TEXT, b"x", 0) + frame(TEXT, b"y", 0),
    b"\x81\x01x", b"\x89\x00", b"\x88\x00",
]


@pytest.mark.parametrize("path", [ECHO, ENGINE])
@pytest.mark.parametrize("data", WRONG, ids=lambda data: data[:2].hex() + f"+{len(data)}")
def test_broken_frames_are_1002(conformance: Server, path: str, data: bytes) -> None:
    with open_at(conformance, path) as broken:
        broken.send(data)
        assert broken.closed() == 1002


def test_what_was_said_before_is_answered_before(peer: Peer) -> None:
    peer.send(frame(TEXT, b"first"), frame(PING, b"second"), frame(3), frame(TEXT, b"never"), frame(PING))
    assert [peer.got(), peer.got()] == [(TEXT, b"first"), (PONG, b"second")]
    assert peer.closed() == 1002


def test_a_broken_end_is_told_to_one_who_goes_on_talking(peer: Peer) -> None:
    """The close frame is not lost to a reset while the peer still sends."""
    peer.send(frame(3))
    for _ in range(20):
        peer.send(frame(BINARY, bytes(10_000)))
    assert peer.closed() == 1002


# -- 8.1: UTF-8


def pieces(data: bytes) -> list[bytes]:
    """A text message of one byte a frame."""
    last = len(data) - 1
    return [frame(CONT if at else TEXT, data[at:at + 1], 0 if at < last else FIN) for at in range(len(data))]


GOOD = ["κόσμε", "\x00", "\x7f", "\u0080", "\u07ff", "\u0800", "\ufffd", "\U00010000", "\U0010ffff", "\ud7ff", "\ue000",
        "\ufffe", "\uffff", "\U0001fffe", "\ufdd0", "\ufeff", "퟿"]
BAD = [b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"\x80", b"\xbf", b"\x80\xbf\x80", b"\xc0",
       b"\xc1\xbf", b"\xc2", b"\xc3\x28", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xe1\x80", b"\xed\xa0\x80",
       b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\xf0\x80\x80\xaf", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80",
       b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xfe",
       b"\xff", b"ok\xfe\xfe\xff\xff"]


@pytest.mark.parametrize("text", GOOD, ids=ascii)
def test_all_of_unicode_goes_through_whole_and_in_pieces(peer: Peer, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    peer.send(frame(TEXT, data), *pieces(data))
    assert [peer.got(), peer.got()] == [(TEXT, data), (TEXT, data)]


@pytest.mark.parametrize("data", BAD, ids=bytes.hex)
def test_what_is_not_utf8_is_1007(conformance: Server, data: bytes) -> None:
    for path, sent in ((ECHO, [frame(TEXT, data)]), (ECHO, pieces(data)), (ENGINE, [frame(TEXT, b"4" + data)])):
        with open_at(conformance, path) as broken:
            broken.send(*sent)
            assert broken.closed() == 1007


def test_what_is_not_utf8_is_told_with_the_fragment_it_is_in(peer: Peer) -> None:
    peer.send(frame(TEXT, "κόσμε".encode(), 0), frame(CONT, b"\xf4\x90", 0))
    assert peer.closed() == 1007


def test_what_is_not_utf8_is_told_with_the_byte_it_is_in(peer: Peer) -> None:
    """Though the frame, and the message, have not all come."""
    sent = frame(TEXT, "κόσμε".encode() + b"\xf4\x90" + b"x" * 1000)
    peer.send(sent[:-1002])
    peer.send(frame(PING)[:0])
    peer.send(sent[-1002:-1000])
    assert peer.closed() == 1007


def test_a_character_may_be_cut_anywhere(peer: Peer) -> None:
    for cut in range(1, 4):
        data = "\U0010ffff".encode()
        peer.send(frame(TEXT, data[:cut], 0))
        peer.send(frame(PING))
        assert peer.got()[0] == PONG
        peer.send(frame(CONT, data[cut:]))
        assert peer.got() == (TEXT, data)


# -- 5.5.1, 7: closing


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999,
                                  4000, 4999])
def test_a_close_is_answered_with_its_code(conformance: Server, code: int) -> None:
    for path in (ECHO, ENGINE):
        with open_at(conformance, path) as leaving:
            leaving.send(close(code, "fare thee well, ς".encode()))
            assert leaving.closed() == code


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_code_that_must_not_be_sent_is_1002(conformance: Server, code: int) -> None:
    for path in (ECHO, ENGINE):
        with open_at(conformance, path) as leaving:
            leaving.send(close(code))
            assert leaving.closed() == 1002


@pytest.mark.parametrize(("sent", "code"), [
    (frame(CLOSE), 1000), (frame(CLOSE, b"\x03"), 1002), (close(1000, b"x" * 123), 1000),
    (close(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), 1007), (close(1000, b"\xff"), 1007),
])
def test_close_payloads(peer: Peer, sent: bytes, code: int) -> None:
    peer.send(sent)
    assert peer.closed() == code


def test_nothing_after_a_close_is_looked_at(peer: Peer) -> None:
    peer.send(frame(TEXT, b"before"), close(1000), frame(TEXT, b"after"), frame(PING), close(1001), frame(3))
    assert peer.got() == (TEXT, b"before")
    assert peer.closed() == 1000


def test_a_close_within_a_message_ends_it(peer: Peer) -> None:
    peer.send(frame(TEXT, b"part", 0), close(1000), frame(CONT, b"rest"))
    assert peer.closed() == 1000


# -- 10.4: limits


def test_a_giant_is_1009_by_its_header(conformance: Server) -> None:
    for path in (ECHO, ENGINE):
        with open_at(conformance, path) as giant:
            giant.send(b"\x82\xff" + struct.pack("!Q", 2**40) + b"mask")
            assert giant.closed() == 1009


def test_fragments_count_together(conformance: Server) -> None:
    with open_at(conformance, ENGINE) as giant:
        giant.send(frame(BINARY, bytes(600_000), 0), frame(CONT, bytes(600_000), 0))
        assert giant.closed() == 1009


# -- RFC 7692: permessage-deflate


def squeezed(data: bytes, squeezer: Any = None, window: int = 15) -> bytes:
    squeezer = squeezer or zlib.compressobj(6, zlib.DEFLATED, -window)
    return bytes(squeezer.compress(data) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]


OFFERS = [
    ("permessage-deflate", True), ("permessage-deflate; client_no_context_takeover", True),
    ("permessage-deflate; server_no_context_takeover", False),
    ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", False),
    *((f"permessage-deflate; server_max_window_bits={bits}", True) for bits in (9, 12, 15)),
    ('permessage-deflate; server_max_window_bits="10"', True),
    ("permessage-deflate; client_max_window_bits", True), ("permessage-deflate; client_max_window_bits=9", True),
    ("permessage-deflate; client_max_window_bits=12; server_max_window_bits=9; server_no_context_takeover", False),
    ("unknown, permessage-deflate; mystery=1, permessage-deflate", True),
]


@pytest.mark.parametrize(("offer", "keeps"), OFFERS)
def test_an_offer_is_met(conformance: Server, offer: str, keeps: bool) -> None:
    """Every parameter that was asked of the server is agreed to, and kept to: a window, and whether the second of two
    equal messages refers to the first."""
    with Peer(conformance, extensions=offer) as made:
        agreed = made.headers["sec-websocket-extensions"]
        assert agreed.startswith("permessage-deflate")
        asked = offer.rpartition(",")[2]
        for name in ("server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits"):
            assert (name in agreed) == (name in asked)
        window = int(asked.partition("server_max_window_bits=")[2].partition(";")[0].strip('"') or 15)
        expander = zlib.decompressobj(-window)
        ours = None if "client_no_context" in asked else zlib.compressobj(6, zlib.DEFLATED, -9)
        data = os.urandom(200)
        sizes = []
        for _ in range(3):
            made.send(frame(BINARY, squeezed(data, ours, 9), FIN | RSV1))
            first, got = made.raw()
            assert first == FIN | RSV1 | BINARY
            if not keeps:
                expander = zlib.decompressobj(-window)
            assert expander.decompress(got + TAIL) == data
            sizes.append(len(got))
        assert (sizes[1] < 50) == keeps


@pytest.mark.parametrize("offer", [
    "permessage-deflate; server_max_window_bits=8", "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=16", "permessage-deflate; server_max_window_bits=09",
    "permessage-deflate; client_max_window_bits=7", "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover", "permessage-deflate; x", "x",
    "permessage-deflate; client_max_window_bits=16", ";", ",", "permessage-deflate;;",
])
def test_an_offer_that_cannot_be_met_is_passed_over(conformance: Server, offer: str) -> None:
    with Peer(conformance, extensions=offer) as made:
        assert made.status == 101
        assert "sec-websocket-extensions" not in made.headers
        made.send(frame(TEXT, b"plain"))
        assert made.got() == (TEXT, b"plain")


@pytest.fixture
def deflating(conformance: Server) -> Iterator[Peer]:
    offer = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
    with Peer(conformance, extensions=offer) as made:
        yield made


def expanded(peer: Peer) -> bytes:
    first, data = peer.raw()
    assert first & RSV1
    return zlib.decompressobj(-15).decompress(data + TAIL)


@pytest.mark.parametrize("size", [0, 1, 16, 64, 1024, 65536, 131072])
def test_compressed_messages_of_every_size(deflating: Peer, size: int) -> None:
    data = (b"The quick brown fox. " * (size // 21 + 1))[:size]
    deflating.send(frame(TEXT, squeezed(data), FIN | RSV1))
    assert expanded(deflating) == data


def test_a_compressed_message_may_be_fragmented_and_mixed_with_plain_ones(deflating: Peer) -> None:
    data = squeezed(HELLO * 20)
    deflating.send(frame(TEXT, data[:5], RSV1), frame(PING, b"x"), frame(CONT, data[5:9], 0), frame(CONT, data[9:]))
    assert deflating.got() == (PONG, b"x")
    assert expanded(deflating) == HELLO * 20
    deflating.send(frame(TEXT, b"plain"))
    assert expanded(deflating) == b"plain"


def test_a_compressed_message_may_end_in_a_final_block(deflating: Peer) -> None:
    """RFC 7692 section 7.2.3.4."""
    squeezer = zlib.compressobj(6, zlib.DEFLATED, -15)
    deflating.send(frame(TEXT, squeezer.compress(b"final") + squeezer.flush() + b"\x00", FIN | RSV1))
    assert expanded(deflating) == b"final"


@pytest.mark.parametrize(("sent", "code"), [
    (frame(TEXT, b"\xff\xff\xff\xff", FIN | RSV1), 1007),
    (frame(TEXT, squeezed(b"\xff\xfe"), FIN | RSV1), 1007),
    (frame(BINARY, squeezed(bytes(20_000_000)), FIN | RSV1), 1009),
    (frame(PING, squeezed(b"x"), FIN | RSV1), 1002),
    (frame(TEXT, squeezed(b"x"), RSV1) + frame(CONT, b"", FIN | RSV1), 1002),
    (frame(TEXT, b"x", FIN | RSV2), 1002),
])
def test_broken_compression(deflating: Peer, sent: bytes, code: int) -> None:
    deflating.send(sent)
    assert deflating.closed() == code


def test_engine_io_compresses_without_contexts(conformance: Server) -> None:
    with Peer(conformance, ENGINE, extensions="permessage-deflate; client_max_window_bits") as made:
        assert made.headers["sec-websocket-extensions"] == (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover")
        assert made.got()[1].startswith(b"0{")
        for _ in range(2):
            made.send(frame(TEXT, squeezed(b"40"), FIN | RSV1), frame(TEXT, squeezed(b"41"), FIN | RSV1))
            assert made.got()[1].startswith(b"40{")
            assert made.got()[1] == b'42["auth",{}]'
