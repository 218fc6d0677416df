"""permessage-deflate (RFC 7692) without context takeover on either side.

Without a context every message is compressed on its own, so a broadcast is compressed once and shared by all, and an
idle connection keeps no window in memory.
"""

from __future__ import annotations

import zlib
from typing import Final

from wsapp.errors import CloseCode
from wsapp.transport.frames import FrameError

EXTENSION: Final = "permessage-deflate"
ACCEPTED: Final = f"{EXTENSION}; server_no_context_takeover; client_no_context_takeover"
TAIL: Final = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1
LARGEST_WINDOW: Final = 15
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


def deflate(payload: bytes, level: int) -> bytes:
    """A message's payload, compressed (RFC 7692 section 7.2.1)."""
    squeezer = zlib.compressobj(level, zlib.DEFLATED, -LARGEST_WINDOW)
    data = squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    return data[:-len(TAIL)]


def inflate(payload: bytes, max_size: int) -> bytes:
    """A message's payload, expanded (section 7.2.2).  Raises FrameError: 1009 past `max_size` bytes, however small
    what came was; 1007 for what is not deflate."""
    expander = zlib.decompressobj(-LARGEST_WINDOW)
    try:
        data = expander.decompress(payload + TAIL, max_size + 1)
    except zlib.error as error:
        raise FrameError(CloseCode.INVALID_DATA, "the compressed message is broken") from error
    if len(data) > max_size:
        raise FrameError(CloseCode.TOO_BIG, f"a message may have {max_size} bytes")
    return data
