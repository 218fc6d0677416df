"""Bytes to lines and progress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsapp.cli.command_output import Line, LineSplitter, printable, progress_of

MORE_LINE_ENDS = bytes.maketrans(b"\x00\x01\x02\x03", b"\n\r\n\r")
PIECES = st.lists(st.binary(max_size=12).map(lambda raw: raw.translate(MORE_LINE_ENDS)))


def split(pieces: list[bytes], limit: int = 100) -> list[Line]:
    splitter = LineSplitter(limit)
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.end()


def raws(*pieces: bytes, limit: int = 100) -> list[bytes]:
    return [line.raw for line in split(list(pieces), limit)]


def test_lines_in_any_pieces() -> None:
    assert raws(b"a\nb", b"c\n\n", b"d") == [b"a", b"bc", b"", b"d"]
    assert raws(b"a\r\n", b"b\r", b"\nc\r", b"\n") == [b"a", b"b", b"c"]
    assert raws() == raws(b"") == []


def test_a_redrawn_line_is_what_the_terminal_shows() -> None:
    assert raws(b"10%\r20%\r", b"30%\n") == [b"30%"]
    assert raws(b"10%", b"\r", b"20%", b"\r", b"\n") == [b"20%"]
    assert raws(b"x\n10%\r20%\ny\n") == [b"x", b"20%", b"y"]
    splitter = LineSplitter(100)
    splitter.feed(b"10%\r20%\r")
    assert splitter.partial.strip(b"\r") == b"20%"


def test_long_lines_are_cut_and_the_rest_is_counted() -> None:
    assert split([b"a" * 25 + b"\nb\n"], 10) == [Line(b"a" * 10, 15), Line(b"b")]
    assert split([b"a" * 7, b"a" * 7, b"a" * 7 + b"\nb"], 10) == [Line(b"a" * 10, 11), Line(b"b")]
    assert split([b"x\n" + b"a" * 25 + b"\n"], 10) == [Line(b"x"), Line(b"a" * 10, 15)]
    assert Line(b"abc", 7).text() == "abc … [7 more bytes]"


def test_memory_is_bounded() -> None:
    splitter = LineSplitter(1000)
    for _ in range(100):
        splitter.feed(b"x" * 65_536)
        assert len(splitter.partial) <= 1001
    assert splitter.end() == [Line(b"x" * 1000, 65_536 * 100 - 1000)]


@given(PIECES, st.integers(1, 20))
def test_pieces_do_not_matter_and_no_line_is_lost(pieces: list[bytes], limit: int) -> None:
    whole = b"".join(pieces)
    lines = split(pieces, limit)
    ended = whole.count(b"\n")
    assert len(lines) in (ended, ended + 1)
    assert all(len(line.raw) <= limit for line in lines)
    if b"\r" not in whole:
        expected = whole.split(b"\n")
        expected = expected[:-1] if expected[-1] == b"" else expected
        assert [line.raw for line in lines] == [line[:limit] for line in expected]
        assert [line.cut for line in lines] == [max(0, len(line) - limit) for line in expected]


@given(PIECES)
def test_a_redraw_shows_the_same_in_any_pieces(pieces: list[bytes]) -> None:
    assert split(pieces, 10_000) == split([b"".join(pieces)], 10_000)


def test_text() -> None:
    assert Line(b"bad \xff").text() == "bad \ufffd"
    assert Line(b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x \x1b(y").text() == "red x \x1b(y"


@pytest.mark.parametrize(("text", "percent"), [
    ("42%", 42), ("done 7 %", 7), ("99.9%", 99), ("100% done", 100), ("3/10", 30), ("step 3 / 10 ok", 30),
    ("10%, 2/4", 50),
    ("1/3 then 80%", 80), ("101%", None), ("1000%", None), ("2024/01/02", None), ("5/3", None), ("0/0", None),
    ("a/b", None),
    ("1/2.5", None), ("", None), ("v1.2/3", None), ("/1/2", None),
])
def test_progress(text: str, percent: int | None) -> None:
    assert progress_of(text) == percent


def test_a_ratio_that_may_still_grow() -> None:
    assert progress_of("1/1", ended=False) is None
    assert progress_of("1/10 files", ended=False) == 10
    assert progress_of("42%", ended=False) == 42


def test_printable() -> None:
    assert printable("a\tb\nc\x1b[2J\x07\x7f\x9b1m\x85\u00fc") == "a\tb\nc\ufffd[2J\ufffd\ufffd\ufffd1m\ufffd\u00fc"
