"""Frames: RFC 6455 section 5, each rule with the close code its breach is told."""

from __future__ import annotations

import base64
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsapp.errors import CloseCode
from wsapp.transport.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    FrameError,
    FrameParser,
    encode,
    encode_close,
    parse_close,
    unmask,
)

MASK = b"\x01\x80\xff\x37"


def naive_unmask(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def head(first: int, size: int, masked: int = 0x80) -> bytes:
    if size < 126:
        return bytes((first, masked | size))
    if size < 65536:
        return bytes((first, masked | 126)) + size.to_bytes(2, "big")
    return bytes((first, masked | 127)) + size.to_bytes(8, "big")


def sent(opcode: int, payload: bytes = b"", fin: bool = True, mask: bytes = MASK, bits: int = 0) -> bytes:
    """A frame as a client sends it."""
    return head((FIN if fin else 0) | bits | opcode, len(payload)) + mask + naive_unmask(payload, mask)


def failed(parser: FrameParser, data: bytes) -> int:
    """The close code that `data` earns."""
    messages = parser.feed(data)
    assert messages == []
    assert parser.failure is not None
    assert parser.failure.reason
    return parser.failure.code


# -- outwards


@pytest.mark.parametrize(("size", "start"), [
    (0, b"\x81\x00"), (125, b"\x81\x7d"), (126, b"\x81\x7e\x00\x7e"), (65535, b"\x81\x7e\xff\xff"),
    (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
])
def test_the_length_is_written_in_the_fewest_bytes(size: int, start: bytes) -> None:
    assert encode(b"x" * size) == start + b"x" * size


def test_first_bytes() -> None:
    assert encode(b"", BINARY)[0] == 0x82
    assert encode(b"", PONG)[0] == 0x8A
    assert encode(b"", TEXT, rsv1=True)[0] == 0xC1


def test_a_close_frame_is_short_and_its_reason_cut_at_a_character() -> None:
    assert encode_close(1000) == b"\x88\x02\x03\xe8"
    frame = encode_close(4001, "é" * 100)
    assert len(frame) == 2 + 2 + 122
    assert frame[4:].decode() == "é" * 61


def test_a_frame_is_encoded_once_for_everybody() -> None:
    text, binary = Frame(b"42[1]"), Frame(b"\x00\xff", binary=True)
    assert (text.ws, text.text) == (b"\x81\x0542[1]", b"42[1]")
    assert (binary.ws, binary.text) == (b"\x82\x02\x00\xff", b"b" + base64.b64encode(b"\x00\xff"))
    assert text.ws is text.ws
    assert binary.text is binary.text


# -- masks


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmask_is_the_loop_of_the_rfc(payload: bytes, mask: bytes) -> None:
    assert unmask(payload, mask) == naive_unmask(payload, mask)
    assert unmask(unmask(payload, mask), mask) == payload


# -- inwards: what is allowed


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_lengths(size: int) -> None:
    assert FrameParser(100_000).feed(sent(BINARY, b"x" * size)) == [(BINARY, b"x" * size)]


def test_a_length_need_not_be_written_short() -> None:
    """Nobody else closes over it (RFC 6455 section 5.2 asks it of the sender)."""
    data = bytes((FIN | TEXT, 0x80 | 126)) + (2).to_bytes(2, "big") + MASK + naive_unmask(b"hi", MASK)
    assert FrameParser(10).feed(data) == [(TEXT, b"hi")]


def test_fragments_with_a_control_frame_between() -> None:
    parser = FrameParser(100)
    assert parser.feed(sent(TEXT, "é".encode()[:1], fin=False)) == []
    assert parser.feed(sent(PING, b"p")) == [(PING, b"p")]
    assert parser.feed(sent(CONTINUATION, b"", fin=False)) == []
    assert parser.feed(sent(CONTINUATION, "é".encode()[1:])) == [(TEXT, "é".encode())]
    assert parser.feed(sent(BINARY, b"\xff")) == [(BINARY, b"\xff")]
    assert parser.failure is None


def test_binary_fragments_need_not_be_text() -> None:
    data = sent(BINARY, b"\xff", fin=False) + sent(CONTINUATION, b"\xfe")
    assert FrameParser(9).feed(data) == [(BINARY, b"\xff\xfe")]


def test_a_message_of_exactly_the_limit() -> None:
    assert FrameParser(10).feed(sent(TEXT, b"x" * 10)) == [(TEXT, b"x" * 10)]
    assert FrameParser(10).feed(sent(TEXT, b"x" * 5, fin=False) + sent(CONTINUATION, b"x" * 5)) == [(TEXT, b"x" * 10)]


def test_the_limit_is_of_a_message_and_begins_anew_with_each() -> None:
    parser = FrameParser(10)
    for _ in range(5):
        assert parser.feed(sent(TEXT, b"x" * 9, fin=False) + sent(CONTINUATION, b"x")) == [(TEXT, b"x" * 10)]
    assert parser.feed(sent(PING, b"p" * 125)) == [(PING, b"p" * 125)]  # control frames have a limit of their own


# -- inwards: what is not


@pytest.mark.parametrize(("data", "code"), [
    (encode(b"hello"), 1002),
    (head(FIN | PING, 0, masked=0), 1002),
    (sent(TEXT, b"x", bits=0x40), 1002),
    (sent(TEXT, b"x", bits=0x20), 1002),
    (sent(TEXT, b"x", bits=0x10), 1002),
    (sent(PING, b"x", fin=False), 1002),
    (sent(CLOSE, b"", fin=False), 1002),
    (sent(PING, b"x" * 126), 1002),
    (sent(CLOSE, b"x" * 126), 1002),
    (sent(PING, b"x" * 65536), 1002),
    *[(sent(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)],
    (sent(CONTINUATION, b"x"), 1002),
    (sent(CONTINUATION, b"x", fin=False), 1002),
    (sent(TEXT, b"x", fin=False) + sent(TEXT, b"x"), 1002),
    (sent(TEXT, b"x", fin=False) + sent(BINARY, b"x"), 1002),
    (sent(TEXT, b"\xff"), 1007),
    (sent(TEXT, b"\xc3"), 1007),
    (sent(TEXT, b"\xed\xa0\x80"), 1007),  # a surrogate
    (sent(TEXT, b"\xc0\x80"), 1007),  # an overlong zero
    (sent(TEXT, b"\xf4\x90\x80\x80"), 1007),  # past U+10FFFF
    (sent(TEXT, b"ok", fin=False) + sent(CONTINUATION, b"\xff"), 1007),
    (sent(TEXT, b"x" * 1001), 1009),
    (sent(BINARY, b"x" * 600, fin=False) + sent(CONTINUATION, b"x" * 401), 1009),
])
def test_a_breach_and_its_close_code(data: bytes, code: int) -> None:
    assert failed(FrameParser(1000), data) == code
    slowly = FrameParser(1000)
    assert [message for byte in data for message in slowly.feed(bytes((byte,)))] == []
    assert slowly.failure is not None
    assert slowly.failure.code == code


@pytest.mark.parametrize("size", [1001, 65536, 2**32, 2**63 - 1, 2**64 - 1])
def test_a_length_past_the_limit_is_refused_before_the_payload_came(size: int) -> None:
    assert failed(FrameParser(1000), head(FIN | TEXT, size)) == CloseCode.TOO_BIG


def test_fragments_count_together_before_the_payload_came() -> None:
    parser = FrameParser(1000)
    assert parser.feed(sent(TEXT, b"x" * 1000, fin=False)) == []
    assert failed(parser, head(CONTINUATION, 1)) == CloseCode.TOO_BIG


def test_an_endless_run_of_empty_fragments_ends() -> None:
    parser = FrameParser(100)
    assert parser.feed(sent(TEXT, b"", fin=False)) == []
    fragments = 0
    while parser.failure is None and fragments < 1000:
        parser.feed(sent(CONTINUATION, b"", fin=False))
        fragments += 1
    assert fragments <= 102
    assert parser.failure is not None
    assert parser.failure.code == CloseCode.TOO_BIG


def test_what_came_before_the_breach_is_returned_and_nothing_after_it() -> None:
    parser = FrameParser(100)
    assert parser.feed(sent(TEXT, b"one") + encode(b"two") + sent(TEXT, b"three")) == [(TEXT, b"one")]
    first = parser.failure
    assert first is not None
    assert parser.feed(sent(TEXT, b"four") + sent(CLOSE)) == []
    assert parser.failure is first


def test_a_squeezed_message_needs_the_extension() -> None:
    def inflate(payload: bytes, limit: int) -> bytes:
        if len(payload) * 2 > limit:
            raise FrameError(CloseCode.TOO_BIG, "too big once inflated")
        return payload * 2

    parser = FrameParser(100, inflate)
    assert parser.feed(sent(TEXT, b"ab", bits=RSV1)) == [(TEXT, b"abab")]
    assert parser.feed(sent(TEXT, b"ab")) == [(TEXT, b"ab")]
    assert parser.feed(sent(TEXT, b"a", fin=False, bits=RSV1) + sent(CONTINUATION, b"b")) == [(TEXT, b"abab")]
    assert failed(parser, sent(BINARY, b"x" * 51, bits=RSV1)) == CloseCode.TOO_BIG
    for wrong in (sent(PING, b"", bits=RSV1), sent(TEXT, b"", fin=False) + sent(CONTINUATION, b"", bits=RSV1)):
        assert failed(FrameParser(100, inflate), wrong) == CloseCode.PROTOCOL_ERROR


# -- any bytes, in any pieces

messages = st.lists(st.one_of(
    st.tuples(st.just(TEXT), st.text(max_size=200).map(str.encode)),
    st.tuples(st.just(BINARY), st.binary(max_size=200)),
    st.tuples(st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=125))), max_size=6)
masks = st.binary(min_size=4, max_size=4)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@settings(max_examples=150, deadline=None)
@given(messages, st.data())
def test_messages_arrive_whole_however_they_are_masked_fragmented_and_chunked(
        expected: list[tuple[int, bytes]], data: st.DataObject) -> None:
    wire = b""
    for opcode, payload in expected:
        if opcode >= CLOSE:
            wire += sent(opcode, payload, mask=data.draw(masks))
            continue
        parts = pieces(payload, data.draw(st.lists(st.integers(0, 500), max_size=3)))
        for index, part in enumerate(parts):
            wire += sent(CONTINUATION if index else opcode, part, index == len(parts) - 1, data.draw(masks))
    parser = FrameParser(1000)
    found: list[tuple[int, bytes]] = []
    for piece in pieces(wire, data.draw(st.lists(st.integers(0, 5000), max_size=10))):
        found += parser.feed(piece)
    assert found == expected
    assert all(type(payload) is bytes for _, payload in found)
    assert parser.failure is None


frames = st.builds(sent, st.integers(0, 15), st.binary(max_size=20), st.booleans(), masks,
                   st.sampled_from([0, 0, 0, 0x40]))
frame_bytes = st.lists(st.binary(max_size=20) | frames, max_size=6).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100) | frame_bytes, st.lists(st.integers(0, 500), max_size=8))
def test_any_bytes_give_the_same_in_any_pieces_and_raise_nothing(data: bytes, cuts: list[int]) -> None:
    at_once, bit_by_bit = FrameParser(50), FrameParser(50)
    expected = at_once.feed(data)
    found = [message for piece in pieces(data, cuts) for message in bit_by_bit.feed(piece)]
    assert found == expected
    one, two = at_once.failure, bit_by_bit.failure
    assert (one and (one.code, one.reason)) == (two and (two.code, two.reason))


def test_a_long_frame_in_small_pieces_is_not_copied_for_each() -> None:
    """Else one client that sends a byte at a time would cost a worker a megabyte of copying for each."""
    parser = FrameParser(1_000_000)
    parser.feed(head(FIN | BINARY, 1_000_000) + MASK + bytes(900_000))
    buffer = parser._buffer
    for _ in range(100):
        assert parser.feed(b"x") == []
        assert parser._buffer is buffer


# -- close frames


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999,
                                  4000, 4999])
def test_close_codes_that_may_be_sent(code: int) -> None:
    assert parse_close(code.to_bytes(2, "big")) == code
    assert parse_close(code.to_bytes(2, "big") + "grüße".encode()) == code


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_that_may_not(code: int) -> None:
    with pytest.raises(FrameError) as caught:
        parse_close(code.to_bytes(2, "big"))
    assert caught.value.code == CloseCode.PROTOCOL_ERROR


def test_close_payloads() -> None:
    assert parse_close(b"") == 1005
    with pytest.raises(FrameError) as caught:
        parse_close(b"\x03")
    assert caught.value.code == CloseCode.PROTOCOL_ERROR
    with pytest.raises(FrameError) as caught:
        parse_close(b"\x03\xe8\xff")
    assert caught.value.code == CloseCode.INVALID_DATA


# -- text is judged as it comes


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3\x28", b"\xf4\x90", b"\xe0\x80"])
def test_a_wrong_byte_is_told_before_the_frame_is_complete(bad: bytes) -> None:
    whole = sent(TEXT, "κόσμε".encode() + bad + b"x" * 500)
    for first in range(len(whole) - 500 - len(bad) + 1):
        parser = FrameParser(1000)
        assert parser.feed(whole[:first]) == []
        assert parser.failure is None
        assert failed(parser, whole[first:len(whole) - 500]) == CloseCode.INVALID_DATA


def test_a_wrong_byte_is_told_before_the_message_is_complete() -> None:
    parser = FrameParser(1000)
    assert parser.feed(sent(TEXT, b"\xf0\x9f", fin=False)) == []
    assert parser.feed(sent(PING)) == [(PING, b"")]
    assert failed(parser, sent(CONTINUATION, b"x", fin=False)) == CloseCode.INVALID_DATA


def test_a_character_that_never_ends_is_told_at_the_end() -> None:
    parser = FrameParser(1000)
    assert parser.feed(sent(TEXT, b"\xf0\x9f", fin=False)) == []
    assert failed(parser, sent(CONTINUATION)) == CloseCode.INVALID_DATA


def test_binary_and_compressed_pieces_are_not_judged_as_text() -> None:
    parser = FrameParser(1000, lambda data, size: b"inflated")
    for frame in (sent(BINARY, b"\xff" * 20), sent(TEXT, b"\xff" * 20, bits=RSV1)):
        assert parser.feed(frame[:12]) == []
        assert parser.feed(frame[12:]) == [(frame[0] & 0xF, b"\xff" * 20 if frame[0] & 0xF == BINARY else b"inflated")]


@given(st.text(max_size=80), st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 40))
@settings(max_examples=60)
def test_good_text_passes_however_it_is_cut(text: str, cuts: list[int], step: int) -> None:
    data, frames, at = text.encode(), b"", 0
    for number, cut in enumerate(cuts):
        last = number == len(cuts) - 1
        frames += sent(CONTINUATION if number else TEXT, data[at:] if last else data[at:at + cut], fin=last)
        at += cut
    parser, found = FrameParser(1000), []
    for start in range(0, len(frames), step):
        found += parser.feed(frames[start:start + step])
    assert (found, parser.failure) == ([(TEXT, data)], None)
