"""Who may open a connection at all: handshakes per second, connections per address, and a first look at a token.

Judged before anything is made for the client.  An address behind proxies is the one that the outermost trusted proxy
saw (`wsapp.core.forwarded`).
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from wsapp.core.forwarded import told_by
from wsapp.core.limited_log import ONCE_A_MINUTE, LimitedLog
from wsapp.core.places import Places
from wsapp.core.throttle import Bucket

log = logging.getLogger(__name__)

Environ = dict[str, Any]

SITE_PREFIX: Final = 64  # bits of an IPv6 address that one customer has to itself (RFC 6177)
SHARE: Final = 4  # the part of MAX_CONNECTIONS that may be about to join
SMALLEST_SHARE: Final = 64
JOINING: Final = 2.0  # seconds in which a client is taken to be about to join
RETRY_SOON: Final = 1  # seconds
RETRY_LATER: Final = 5


class TooMany(Exception):
    """A limit is reached; `retry_after` in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Full(TooMany):
    """All places of the worker are taken."""


@dataclass(frozen=True, slots=True)
class GateOptions:
    """0 switches a limit off.  `proxies` is how many stand in front."""

    connections: int = 0
    per_address: int = 0
    handshakes: float = 0
    proxies: int = 0


def client_address(environ: Environ, proxies: int) -> str:
    """Where a request comes from, as far as `proxies` trusted ones can tell; "" for a Unix socket."""
    told = told_by(environ.get("HTTP_X_FORWARDED_FOR", ""), proxies)
    return normal_address(told or environ.get("REMOTE_ADDR", "") or "")


@lru_cache(4096)
def normal_address(text: str) -> str:
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
    """One worker's.  `judge(environ)` looks at a token and raises WsappError; `count(name)` counts refusals.

    Sockets, polling sessions and streams share MAX_CONNECTIONS.  Those that have not yet joined have a share of it, a
    quarter: when it is full, the oldest of the address that has most of them is closed for a newcomer.
    """

    def __init__(self, options: GateOptions | None = None, judge: Callable[[Environ], None] = _nobody,
                 count: Callable[[str], None] = _uncounted, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options or GateOptions()
        self._judge, self._count, self._clock = judge, count, clock
        self._bucket = Bucket(self.options.handshakes)
        self._share = max(SMALLEST_SHARE, self.options.connections // SHARE) if self.options.connections else 0
        self._unjoined: Places[str] = Places()
        self._open: set[str] = set()
        self._addresses: dict[str, int] = {}
        self._of: dict[str, str] = {}  # sid -> address
        self._lines, self._fullness = LimitedLog(log), LimitedLog(log, rate=ONCE_A_MINUTE, burst=1)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._open)

    @property
    def unjoined(self) -> int:
        """How many of them have not joined."""
        return len(self._unjoined)

    def admit(self, environ: Environ) -> str | None:
        """Judge who wants to open a connection.  Returns the sid of one that is to be closed first, if there is no room
        otherwise.  Raises TooMany, and what `judge` raises."""
        if not self._bucket.admit(self._clock()):
            self._count("handshakesRefused")
            raise TooMany(f"more than {self.options.handshakes:g} handshakes a second (WSAPP_MAX_HANDSHAKES_PER_SEC)",
                          RETRY_SOON)
        address, limit = client_address(environ, self.options.proxies), self.options.per_address
        if limit and self._addresses.get(address, 0) >= limit:
            self._count("addressesRefused")
            raise TooMany(f"the address has {limit} connections (WSAPP_MAX_CONNECTIONS_PER_ADDRESS)", RETRY_LATER)
        self._judge(environ)
        full = self.options.connections and len(self._open) >= self.options.connections
        if not full and not (self._share and len(self._unjoined) >= self._share):
            return None
        return self._make_room(address, bool(full))

    def _make_room(self, address: str, full: bool) -> str:
        found = self._unjoined.oldest()
        if found is not None:
            sid, since = found
            theirs = self._unjoined.address_of(sid)
            fair = self._unjoined.idle_of(theirs) > self._unjoined.idle_of(address) + 1
            if fair or self._clock() - since > JOINING:
                self._count("unjoinedClosed")
                self._lines.warning(theirs, "closed the oldest of %d connections of %r that have not joined: no room",
                                    self._unjoined.idle_of(theirs), theirs)
                return sid
        self._count("connectionsRefused")
        told = f"the worker is full: {self.options.connections} connections" if full else (
            f"{self._share} connections are about to join")
        self._fullness.warning("", "refused a client: %s (MAX_CONNECTIONS)", told)
        raise Full(told, RETRY_LATER if full else RETRY_SOON)

    def opened(self, sid: str, environ: Environ) -> None:
        """A connection was made.  For the limit of an address those of the loopback are not counted: they are proxies'
        and the machine's own."""
        address = client_address(environ, self.options.proxies)
        self._open.add(sid)
        self._unjoined.enter(sid, address, self._clock())
        if address and not _loopback(address):
            self._of[sid] = address
            self._addresses[address] = self._addresses.get(address, 0) + 1

    def unsettled(self, age: float) -> list[str]:
        """Connections that have joined nothing for more than `age` seconds."""
        return list(self._unjoined.idle_since(self._clock() - age))

    def settled(self, sid: str) -> None:
        """A connection has become what it was opened for.  Idempotent."""
        self._unjoined.leave(sid)

    def parted(self, sid: str, environ: Environ) -> None:
        """A connection has left what it had joined, and may join again."""
        if sid in self._open and sid not in self._unjoined:
            self._unjoined.enter(sid, client_address(environ, self.options.proxies), self._clock())

    def closed(self, sid: str) -> None:
        """A connection is gone; idempotent."""
        self._unjoined.leave(sid)
        self._open.discard(sid)
        address = self._of.pop(sid, None)
        if address is None:
            return
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
