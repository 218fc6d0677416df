"""What a command prints, as lines of text and as progress.  Pure: bytes in, lines out."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_ESCAPES: Final = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\^_])")  # ECMA-48
_PERCENT: Final = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d+)?)\s?%")
_RATIO: Final = re.compile(r"(?<![\d/.,-])(\d{1,9})\s?/\s?(\d{1,9})(?![\d/]|[.,]\d)")


_CONTROLS: Final = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def printable(text: str) -> str:
    """The text without what would steer a terminal (C0, DEL and C1 of ECMA-48); tabs and line ends stay."""
    return text.translate(_CONTROLS)


class Line(NamedTuple):
    """One line without its end; `cut` bytes of it were too many."""

    raw: bytes
    cut: int = 0

    def text(self) -> str:
        """Readable text: invalid UTF-8 replaced, terminal escapes removed, a note when it was cut."""
        text = self.raw.decode("utf-8", "replace")
        if "\x1b" in text:
            text = _ESCAPES.sub("", text)
        return f"{text} … [{self.cut} more bytes]" if self.cut else text


class LineSplitter:
    """Bytes in any pieces to lines, holding at most `limit` bytes.  A lone carriage return redraws its line, as
    progress bars do: only what a terminal would show at the end is the line."""

    __slots__ = ("_cut", "_limit", "_partial")

    def __init__(self, limit: int) -> None:
        self._limit, self._partial, self._cut = limit, b"", 0

    @property
    def partial(self) -> bytes:
        """The beginning of the line that has not ended yet."""
        return self._partial

    def feed(self, data: bytes) -> list[Line]:
        """The lines that `data` ends, in order."""
        first, *rest = data.split(b"\n")
        self._extend(first)
        if not rest:
            return []
        *whole, last = rest
        lines = [self._take(), *map(self._line, whole)]
        self._extend(last)
        return lines

    def end(self) -> list[Line]:
        """The last line, when the output stopped within one."""
        return [self._take()] if self._partial else []

    def _extend(self, piece: bytes) -> None:
        if b"\r" in piece or self._partial.endswith(b"\r"):
            shown, redrawn = _last_drawn(self._partial[-1:] + piece if self._partial.endswith(b"\r") else piece)
            if redrawn:
                self._partial, self._cut = b"", 0
            elif self._partial.endswith(b"\r"):
                self._partial = self._partial[:-1]
            piece = shown
        room = self._limit - len(self._partial)
        if len(piece) > room:
            self._cut += len(piece) - max(room, 0)
            # A line end of two bytes may be split between two reads: keep its first half.
            ended = b"\r" if piece.endswith(b"\r") else b""
            piece = piece[:max(room, 0)] + ended
            self._cut -= len(ended)
        self._partial += piece

    def _take(self) -> Line:
        line = Line(self._partial.rstrip(b"\r"), self._cut)
        self._partial, self._cut = b"", 0
        return line

    def _line(self, raw: bytes) -> Line:
        if b"\r" in raw:
            raw = _last_drawn(raw)[0].rstrip(b"\r")
        return Line(raw) if len(raw) <= self._limit else Line(raw[:self._limit], len(raw) - self._limit)


def _last_drawn(piece: bytes) -> tuple[bytes, bool]:
    """What follows the last carriage return that something follows, and whether there was one."""
    at = piece.rstrip(b"\r").rfind(b"\r")
    return piece[at + 1:], at >= 0


def progress_of(text: str, *, ended: bool = True) -> int | None:
    """Percent done as the last `42%` or `3/10` in the text says, rounded down; None when nothing says it.

    A ratio at the very end of a line that has not `ended` may still grow (`1/1` of `1/10`) and is not taken.
    """
    found: tuple[int, float] | None = None
    if "%" in text:
        for match in _PERCENT.finditer(text):
            found = (match.start(), float(match[1]))
    if "/" in text:
        for match in _RATIO.finditer(text):
            done, total = int(match[1]), int(match[2])
            growing = not ended and match.end() == len(text)
            if total > 0 and done <= total and not growing and (found is None or match.start() > found[0]):
                found = (match.start(), 100 * done / total)
    return int(found[1]) if found and found[1] <= 100 else None
