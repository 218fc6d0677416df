"""WebSocket frames: however the bytes are cut, the messages, and the failure, are the same."""

from __future__ import annotations

from wsapp.transport.deflate import Context, Terms, agree, deflate, negotiate
from wsapp.transport.frames import BINARY, CLOSE, TEXT, FrameError, FrameParser, parse_close

LIMIT = 2000
MASK = b"\1\2\3\4"


def sent(opcode: int, payload: bytes, flags: int = 0x80) -> bytes:
    """A masked frame."""
    size = len(payload)
    head = bytes((flags | opcode, 0x80 | size)) if size < 126 else bytes((flags | opcode, 0xFE)) + size.to_bytes(2)
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


SEEDS = [
    b"\x00" + sent(TEXT, b"4hello"), b"\x03" + sent(BINARY, bytes(200)), b"\x01" + sent(TEXT, "κόσμε".encode()),
    b"\x05" + sent(TEXT, b"a", 0) + sent(9, b"p") + sent(0, b"b"), b"\x00" + sent(CLOSE, b"\x03\xe8bye"),
    b"\x83" + sent(TEXT, deflate(b"x" * 300, 1), 0xC0), b"\x42" + sent(TEXT, b"ok\xf4\x90") + sent(TEXT, b"x"),
    b"\xc1" + sent(TEXT, deflate(b"hello", 1)[:2], 0x40) + sent(0, deflate(b"hello", 1)[2:]),
    b"\x07\x81\xff\0\0\0\0\0\0\xff\xff", b"\x02" + sent(TEXT, b"", 0) * 40,
]


def parser(kind: int) -> FrameParser:
    if kind & 0x80:
        return FrameParser(LIMIT, Context(Terms("", peer_context=bool(kind & 0x40)), 1).inflate)
    return FrameParser(LIMIT)


def check(data: bytes) -> None:
    if not data:
        return
    kind, data = data[0], data[1:]
    whole, pieces = parser(kind), parser(kind)
    messages = whole.feed(data)
    step, found = (kind & 0x3F) + 1, []
    for at in range(0, len(data), step):
        found += pieces.feed(data[at:at + step])
    assert found == messages, "cut in pieces, the messages are others"
    assert (pieces.failure and pieces.failure.code) == (whole.failure and whole.failure.code)
    for opcode, payload in messages:
        assert len(payload) <= (LIMIT if opcode < CLOSE else 125)
        if opcode == TEXT:
            payload.decode()
        elif opcode == CLOSE:
            try:
                parse_close(payload)
            except FrameError as error:
                assert error.code in (1002, 1007)
    offers = data.decode("latin-1")
    negotiate(offers)
    agree(offers)
