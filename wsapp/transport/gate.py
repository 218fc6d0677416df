"""Who may open a connection at all: handshakes per second, connections per address, and a first look at a token.

Judged before anything is made for the client.  An address behind proxies is the one that the outermost trusted proxy
saw (`wsapp.core.forwarded`).
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final

from wsapp.core.forwarded import told_by
from wsapp.core.throttle import Bucket

Environ = dict[str, Any]

SITE_PREFIX: Final = 64  # bits of an IPv6 address that one customer has to itself (RFC 6177)
RETRY_SOON: Final = 1  # seconds
RETRY_LATER: Final = 5


class TooMany(Exception):
    """A limit is reached; `retry_after` in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class GateOptions:
    """0 switches a limit off.  `proxies` is how many stand in front."""

    per_address: int = 0
    handshakes: float = 0
    proxies: int = 0


def client_address(environ: Environ, proxies: int) -> str:
    """Where a request comes from, as far as `proxies` trusted ones can tell; "" for a Unix socket."""
    told = told_by(environ.get("HTTP_X_FORWARDED_FOR", ""), proxies)
    return _normal(told or environ.get("REMOTE_ADDR", "") or "")


@lru_cache(4096)
def _normal(text: str) -> str:
    """One spelling per address, without a port; an IPv6 address stands for its network."""
    bare = text[1:].partition("]")[0] if text.startswith("[") else text
    bare = bare.partition(":")[0] if bare.count(":") == 1 else bare
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return text[:64]
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return str(mapped)
    if address.version == 6 and not address.is_loopback:
        return str(ipaddress.ip_network((address, SITE_PREFIX), strict=False))
    return str(address)


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _nobody(_environ: Environ) -> None:
    return None


def _uncounted(_name: str) -> None:
    return None


class Gate:
    """One worker's.  `judge(environ)` looks at a token and raises WsappError; `count(name)` counts refusals."""

    def __init__(self, options: GateOptions | None = None, judge: Callable[[Environ], None] = _nobody,
                 count: Callable[[str], None] = _uncounted, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options or GateOptions()
        self._judge, self._count, self._clock = judge, count, clock
        self._bucket = Bucket(self.options.handshakes)
        self._addresses: dict[str, int] = {}
        self._of: dict[str, str] = {}  # sid -> address
        self._born: dict[str, float] = {}  # sid -> when, until `settled`

    def admit(self, environ: Environ) -> None:
        """Raises TooMany, and what `judge` raises."""
        if not self._bucket.admit(self._clock()):
            self._count("handshakesRefused")
            raise TooMany(f"more than {self.options.handshakes:g} handshakes a second (WSAPP_MAX_HANDSHAKES_PER_SEC)",
                          RETRY_SOON)
        address, limit = client_address(environ, self.options.proxies), self.options.per_address
        if limit and self._addresses.get(address, 0) >= limit:
            self._count("addressesRefused")
            raise TooMany(f"the address has {limit} connections (WSAPP_MAX_CONNECTIONS_PER_ADDRESS)", RETRY_LATER)
        self._judge(environ)

    def opened(self, sid: str, environ: Environ) -> None:
        """A connection was made.  Those of the loopback are not counted: they are proxies' and the machine's own."""
        self._born[sid] = self._clock()
        address = client_address(environ, self.options.proxies)
        if address and not _loopback(address):
            self._of[sid] = address
            self._addresses[address] = self._addresses.get(address, 0) + 1

    def unsettled(self, age: float) -> list[str]:
        """Connections older than `age` seconds that have not been settled."""
        limit = self._clock() - age
        return [sid for sid, _ in takewhile(lambda entry: entry[1] < limit, self._born.items())]  # oldest first

    def settled(self, sid: str) -> None:
        """A connection has become what it was opened for."""
        self._born.pop(sid, None)

    def closed(self, sid: str) -> None:
        """A connection is gone; idempotent."""
        self._born.pop(sid, None)
        address = self._of.pop(sid, None)
        if address is None:
            return
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
