"""permessage-deflate: RFC 7692, without contexts, and with them."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transport.test_frames import sent
from wsapp.errors import CloseCode
from wsapp.transport.deflate import ACCEPTED, TAIL, Context, Terms, agree, deflate, inflate, negotiate
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


def test_inflating_stops_after_a_turn_and_goes_on_when_told() -> None:
    """One read of 64 kB may be 60 MB."""
    parser = FrameParser(100_000, inflate)
    large, small = deflate(b"3" * 90_000, 9), sent(TEXT, b"small")
    first = parser.feed(sent(TEXT, large, bits=RSV1) * 3 + small)
    assert (len(first), parser.more) == (1, True)
    assert [len(parser.feed(b"")), len(parser.feed(b""))] == [1, 1]
    assert parser.more
    assert (parser.feed(small), parser.more) == ([(TEXT, b"small")] * 2, False)
    assert (parser.feed(sent(TEXT, large, bits=RSV1)), parser.more) == ([(TEXT, b"3" * 90_000)], False)


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


# -- connections that share nothing


@pytest.mark.parametrize(("offers", "terms"), [
    ("permessage-deflate", Terms("permessage-deflate")),
    ("permessage-deflate; client_max_window_bits=9", Terms("permessage-deflate")),
    ("permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
     Terms("permessage-deflate; server_no_context_takeover; server_max_window_bits=10", False, True, 10)),
    ("x, permessage-deflate; server_max_window_bits=8, permessage-deflate; client_no_context_takeover",
     Terms("permessage-deflate; client_no_context_takeover", True, False)),
])
def test_terms_meet_what_is_asked(offers: str, terms: Terms) -> None:
    assert agree(offers) == terms


@pytest.mark.parametrize("offers", ["", "x", "permessage-deflate; server_max_window_bits", "permessage-deflate; y",
                                    "permessage-deflate; client_no_context_takeover=1", "permessage-deflate;",
                                    "permessage-deflate; server_max_window_bits=8"])
def test_terms_that_cannot_be_met(offers: str) -> None:
    assert agree(offers) is None


@pytest.mark.parametrize("terms", [Terms(""), Terms("", False, False), Terms("", True, False, 9), Terms("", False)])
def test_two_contexts_understand_each_other(terms: Terms) -> None:
    ours, theirs = Context(terms, 1), Context(Terms("", terms.peer_context, terms.own_context, terms.window), 1)
    for size in (0, 10, 10, 5000, 10):
        payload = b"abcdefghij" * (size // 10)
        assert theirs.inflate(ours.deflate(payload), 5000) == payload


def test_a_context_is_kept_or_not_as_agreed() -> None:
    payload = bytes(range(256))
    for kept in (True, False):
        context = Context(Terms("", own_context=kept), 6)
        first, second = context.deflate(payload), context.deflate(payload)
        assert (len(second) < len(first) / 4) == kept


def test_a_context_has_limits_too() -> None:
    context = Context(Terms(""), 1)
    with pytest.raises(FrameError) as refused:
        context.inflate(deflate(bytes(5001), 1), 5000)
    assert refused.value.code == CloseCode.TOO_BIG
