"""permessage-deflate: RFC 7692, without contexts."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transport.test_frames import sent
from wsapp.errors import CloseCode
from wsapp.transport.deflate import ACCEPTED, TAIL, deflate, inflate, negotiate
from wsapp.transport.frames import BINARY, TEXT, Frame, FrameError, FrameParser

RSV1 = 0x40


@pytest.mark.parametrize("offers", [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; client_max_window_bits=10; server_no_context_takeover",
    "x-other, permessage-deflate; server_max_window_bits=9, permessage-deflate; server_max_window_bits=15",
    'permessage-deflate; client_max_window_bits="12"',
])
def test_an_offer_that_suits_is_taken(offers: str) -> None:
    assert negotiate(offers) == ACCEPTED


@pytest.mark.parametrize("offers", [
    "", "x-webkit-deflate-frame", "permessage-deflate; server_max_window_bits=9", "permessage-deflate; unknown",
    "permessage-deflate; client_max_window_bits=16", "permessage-deflate; client_max_window_bits=7",
    "permessage-deflate; client_max_window_bits; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover=1", "permessage-deflate; server_max_window_bits",
])
def test_an_offer_that_does_not_suit_is_passed_over(offers: str) -> None:
    assert negotiate(offers) is None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=5000), st.integers(1, 9))
def test_what_is_deflated_comes_back(payload: bytes, level: int) -> None:
    assert inflate(deflate(payload, level), len(payload)) == payload


def test_another_implementation_reads_it() -> None:
    assert zlib.decompressobj(-15).decompress(deflate(b"hello " * 100, 1) + TAIL) == b"hello " * 100


def test_a_bomb_is_refused_without_being_expanded() -> None:
    bomb = deflate(bytes(50_000_000), 9)
    assert len(bomb) < 60_000
    with pytest.raises(FrameError) as caught:
        inflate(bomb, 100_000)
    assert caught.value.code == CloseCode.TOO_BIG


def test_what_is_not_deflate_is_refused() -> None:
    with pytest.raises(FrameError) as caught:
        inflate(b"\xff\xff\xff", 1000)
    assert caught.value.code == CloseCode.INVALID_DATA


def test_the_parser_inflates_what_was_agreed_on_and_only_that() -> None:
    frame = sent(TEXT, deflate(b"42[1]", 1), bits=RSV1)
    assert FrameParser(1000, inflate).feed(frame) == [(TEXT, b"42[1]")]
    refusing = FrameParser(1000)
    assert refusing.feed(frame) == []
    assert refusing.failure is not None
    assert refusing.failure.code == CloseCode.PROTOCOL_ERROR


def test_inflated_text_is_still_checked() -> None:
    parser = FrameParser(1000, inflate)
    parser.feed(sent(TEXT, deflate(b"\xff\xfe", 1), bits=RSV1))
    assert parser.failure is not None
    assert parser.failure.code == CloseCode.INVALID_DATA


def test_a_frame_is_squeezed_once_and_small_ones_are_left_alone() -> None:
    calls = []

    def squeeze(payload: bytes) -> bytes | None:
        calls.append(payload)
        return deflate(payload, 1) if len(payload) > 100 else None

    large, small = Frame(b"4" * 1000), Frame(b"40", binary=True)
    assert large.squeezed(squeeze) == large.squeezed(squeeze)
    assert len(calls) == 1
    assert large.squeezed(squeeze)[0] & RSV1
    assert small.squeezed(squeeze) == small.ws
    assert small.ws[0] & 0x0F == BINARY
