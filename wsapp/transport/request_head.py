"""The head of an HTTP/1 request, read strictly (RFC 9112 sections 2.2, 3, 5 and 6).

Where two readers of a request could disagree about its end (a length given twice, a length beside chunks, folded
lines, a lone CR) it is refused: such a request is the way to smuggle another one past a proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

MAX_FIELDS: Final = 100
MAX_HEAD: Final = 65_536  # bytes of all header fields

_REQUEST_LINE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} [!-~\x80-\xff]+ HTTP/1\.[01]\r?\n?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*\r?\n")

Fields = list[tuple[str, str]]


class BadHead(ValueError):
    """The request is refused with `status` and its connection closed; the message may be told."""

    def __init__(self, message: str, status: str = "400 Bad Request") -> None:
        super().__init__(message)
        self.status = status

    def answer(self) -> bytes:
        """The whole response."""
        told = str(self).encode()
        return (f"HTTP/1.1 {self.status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
                f"Content-Length: {len(told)}\r\n\r\n").encode() + told


class Head:
    """The fields as pywsgi's handler asks for them; that of the standard library is made for e-mail, and ten times
    slower."""

    __slots__ = ("_first", "fields")
    status = ""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self._first = {name.lower(): value for name, value in reversed(fields)}

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first field of that name."""
        return self._first.get(name.lower(), default)

    getheader = get

    def tokens(self, name: str) -> set[str]:
        """The words of a comma list, in lower case, from all fields of that name."""
        return {word.strip().lower() for value in _values(self.fields, name) for word in value.split(",")}

    @property
    def typeheader(self) -> str | None:
        return self._first.get("content-type")

    @property
    def headers(self) -> Iterator[str]:
        """The fields as lines."""
        return (f"{name}: {value}\r\n" for name, value in self.fields)

    def items(self) -> Fields:
        """All fields, in order."""
        return self.fields

    def __delitem__(self, name: str) -> None:
        self._first.pop(name.lower(), None)
        self.fields = [field for field in self.fields if field[0].lower() != name.lower()]


def check_request_line(line: str) -> None:
    """Method, target, version and single spaces between them.  Raises BadHead."""
    if _REQUEST_LINE.fullmatch(line) is None:
        raise BadHead("not a request line of HTTP/1")


def read_fields(stream: Any) -> Fields:
    """The header fields of a stream, up to and including the empty line.  Raises BadHead."""
    fields: Fields = []
    size = 0
    while True:
        line: bytes = stream.readline(MAX_HEAD + 1)
        if line in (b"\r\n", b"\n"):
            return fields
        size += len(line)
        if size > MAX_HEAD or len(fields) == MAX_FIELDS:
            raise BadHead(f"more than {MAX_FIELDS} header fields, or {MAX_HEAD} bytes of them",
                          "431 Request Header Fields Too Large")
        found = _FIELD.fullmatch(line)
        if found is None:
            raise BadHead("a header field is malformed" if line.endswith(b"\n") else "the head was cut short")
        fields.append((found.group(1).decode("latin-1"), found.group(2).decode("latin-1")))


def judge_fields(version: str, fields: Fields) -> None:
    """One host, and one way to tell where the body ends.  Raises BadHead."""
    lengths, codings, hosts = _values(fields, "content-length"), _values(fields, "transfer-encoding"), _values(
        fields, "host")
    if len(hosts) > 1 or not hosts and version == "HTTP/1.1":
        raise BadHead("a request has one Host")
    if len(lengths) > 1:
        raise BadHead("Content-Length is given twice")
    if lengths and not (lengths[0].isascii() and lengths[0].isdigit() and len(lengths[0]) <= 18):
        raise BadHead("Content-Length is not a number")
    if codings and (lengths or version != "HTTP/1.1"):
        raise BadHead("Transfer-Encoding stands alone, and in HTTP/1.1")
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        raise BadHead("Transfer-Encoding may be chunked", "501 Not Implemented")


def _values(fields: Sequence[tuple[str, str]], wanted: str) -> list[str]:
    return [value for name, value in fields if name.lower() == wanted]
