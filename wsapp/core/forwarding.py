"""The header of a request that one worker forwards to the session's owner on another host.

    Wsapp-Forwarded: 1 <address> <port> <scheme> <mac>

It names the client as the first worker saw it.  The MAC (HMAC-SHA256, RFC 2104) covers that and the request line; its
key is a secret that workers share in Redis, so that no client can pass for a worker.  A request that has the header
is never forwarded again: one hop at most.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, NamedTuple

from wsapp.core.formats import FORWARDED

HEADER: Final = "Wsapp-Forwarded"
NO_ADDRESS: Final = "-"  # the client came through a Unix socket

_FIELDS: Final = re.compile(r"([0-9]{1,4}) ([0-9A-Za-z:.%_-]{1,64}) ([0-9]{1,5}) (http|https) ([0-9a-f]{64})")


class NotForwarded(ValueError):
    """The header was not written by a worker of this cluster, or in a format that is not known here."""


class Client(NamedTuple):
    """Where a request comes from; `address` is empty for a Unix socket."""

    address: str
    port: int
    scheme: str


def forwarded_header(secret: bytes, method: str, target: str, client: Client) -> str:
    """The value of the header for one request."""
    told = f"{FORWARDED} {client.address or NO_ADDRESS} {client.port} {client.scheme}"
    return f"{told} {_mac(secret, method, target, told)}"


def read_forwarded(secret: bytes, method: str, target: str, header: str) -> Client:
    """The client that a worker names.  Raises NotForwarded."""
    found = _FIELDS.fullmatch(header)
    if found is None:
        raise NotForwarded(f"{HEADER} is malformed")
    version, address, port, scheme, mac = found.groups()
    if int(version) != FORWARDED:
        raise NotForwarded(f"{HEADER} has format {version}, this worker reads {FORWARDED}: update it first")
    if not hmac.compare_digest(mac, _mac(secret, method, target, header.rpartition(" ")[0])):
        raise NotForwarded(f"{HEADER} is written by workers only")
    return Client("" if address == NO_ADDRESS else address, int(port), scheme)


def split_address(text: str) -> tuple[str, int]:
    """`host`, `host:port` or `[IPv6]:port`; the port is 0 where none is named.  Raises ValueError."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    return host, int(port or 0)


def _mac(secret: bytes, method: str, target: str, told: str) -> str:
    # None of the parts can hold a line end: the request line was checked before.
    return hmac.new(secret, f"{method}\n{target}\n{told}".encode("latin-1", "replace"), hashlib.sha256).hexdigest()
