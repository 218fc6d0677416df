"""permessage-deflate (RFC 7692).

Our own clients: without context takeover on either side.  Then every message is compressed on its own, so a broadcast
is compressed once and shared by all, and an idle connection keeps no window in memory.  WebSockets of the host
application share nothing: there each side keeps its context, and any window is agreed to.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from wsapp.errors import CloseCode
from wsapp.transport.frames import FrameError

EXTENSION: Final = "permessage-deflate"
ACCEPTED: Final = f"{EXTENSION}; server_no_context_takeover; client_no_context_takeover"
TAIL: Final = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1
LARGEST_WINDOW: Final = 15
WINDOWS: Final = frozenset(map(str, range(9, LARGEST_WINDOW + 1)))  # zlib makes none of 8 bits
KNOWN: Final = frozenset({"server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits",
                          "client_max_window_bits"})


def negotiate(offers: str) -> str | None:
    """The answer to a Sec-WebSocket-Extensions header, or None when no offer in it suits (RFC 7692 section 5.1).

    An offer that limits our window is passed over: the shared frames are made with the largest.
    """
    for offer in offers.split(","):
        name, *parameters = [part.strip() for part in offer.split(";")]
        if name == EXTENSION and _suits(parameters):
            return ACCEPTED
    return None


def _suits(parameters: list[str]) -> bool:
    names = [parameter.partition("=")[0].strip() for parameter in parameters]
    if len(set(names)) != len(names) or not KNOWN.issuperset(names):
        return False
    return all(_acceptable(*(part.strip() for part in parameter.partition("=")[::2])) for parameter in parameters)


def _acceptable(name: str, value: str) -> bool:
    value = value.strip('"')
    if name.endswith("no_context_takeover"):
        return value == ""
    if name == "server_max_window_bits":
        return value == str(LARGEST_WINDOW)
    return value == "" or (value.isascii() and value.isdigit() and 8 <= int(value) <= LARGEST_WINDOW)


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed on for one connection; `header` says it to the client."""

    header: str
    own_context: bool = True
    peer_context: bool = True
    window: int = LARGEST_WINDOW


def agree(offers: str) -> Terms | None:
    """The terms of the first offer that can be met, for a connection that shares its frames with nobody."""
    for offer in offers.split(","):
        name, *parameters = [part.strip() for part in offer.split(";")]
        given = {key.strip(): value.strip().strip('"') for key, _, value in
                 (parameter.partition("=") for parameter in parameters)}
        window = given.get("server_max_window_bits", str(LARGEST_WINDOW))
        rest = {key: value for key, value in given.items() if key != "server_max_window_bits"}
        if name != EXTENSION or len(given) != len(parameters) or not KNOWN.issuperset(given) or not all(
                _acceptable(*pair) for pair in rest.items()) or window not in WINDOWS:
            continue
        told = [EXTENSION, *(key for key in given if key.endswith("no_context_takeover"))]
        if "server_max_window_bits" in given:
            told.append(f"server_max_window_bits={window}")
        return Terms("; ".join(told), "server_no_context_takeover" not in given,
                     "client_no_context_takeover" not in given, int(window))
    return None


class Context:
    """Both directions of one connection under its terms."""

    def __init__(self, terms: Terms, level: int) -> None:
        self._terms, self._level = terms, level
        self._squeezer: Any = None
        self._expander: Any = None

    def deflate(self, payload: bytes) -> bytes:
        """A message's payload, compressed."""
        if self._squeezer is None or not self._terms.own_context:
            self._squeezer = zlib.compressobj(self._level, zlib.DEFLATED, -self._terms.window)
        data: bytes = self._squeezer.compress(payload) + self._squeezer.flush(zlib.Z_SYNC_FLUSH)
        return data[:-len(TAIL)]

    def inflate(self, payload: bytes, max_size: int) -> bytes:
        """A message's payload, expanded.  Raises FrameError, as `inflate` does."""
        if self._expander is None or not self._terms.peer_context or self._expander.eof:
            self._expander = zlib.decompressobj(-LARGEST_WINDOW)
        return _expanded(self._expander, payload, max_size)


def deflate(payload: bytes, level: int) -> bytes:
    """A message's payload, compressed (RFC 7692 section 7.2.1)."""
    squeezer = zlib.compressobj(level, zlib.DEFLATED, -LARGEST_WINDOW)
    data = squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    return data[:-len(TAIL)]


def squeezer(threshold: int, level: int) -> Callable[[bytes], bytes | None]:
    """A function that compresses a payload, or gives None below `threshold` bytes."""
    return lambda payload: deflate(payload, level) if len(payload) >= threshold else None


def inflate(payload: bytes, max_size: int) -> bytes:
    """A message's payload, expanded (section 7.2.2).  Raises FrameError: 1009 past `max_size` bytes, however small
    what came was; 1007 for what is not deflate."""
    return _expanded(zlib.decompressobj(-LARGEST_WINDOW), payload, max_size)


def _expanded(expander: Any, payload: bytes, max_size: int) -> bytes:
    try:
        data: bytes = expander.decompress(payload + TAIL, max_size + 1)
    except zlib.error as error:
        raise FrameError(CloseCode.INVALID_DATA, "the compressed message is broken") from error
    if len(data) > max_size:
        raise FrameError(CloseCode.TOO_BIG, f"a message may have {max_size} bytes")
    return data
