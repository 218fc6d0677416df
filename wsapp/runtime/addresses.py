"""Where the workers of other hosts are: their addresses, from their leases, and the secret that all workers share."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gevent import sleep
from gevent.lock import BoundedSemaphore

from wsapp.core.forwarding import split_address
from wsapp.core.ports import Cluster
from wsapp.errors import BrokerUnavailable
from wsapp.settings import Settings
from wsapp.transport.hosts.route import ForwardingOptions, Listening, Route

log = logging.getLogger(__name__)

FACT: Final = "address"  # its name among the facts of a lease
OFF: Final = "off"
FRESH: Final = 2.0  # seconds for which what was read of a lease is believed
READ_EVERY: Final = 0.2  # seconds between two readings of all leases, whatever sids clients make up
SECRET_TTL: Final = 86_400.0  # seconds for which the secret outlives the last worker
ANSWER_MARGIN: Final = 10.0  # seconds beyond a poll's longest wait in which a forwarded request is answered
REDIS_PORT: Final = 6379
ANY: Final = ("0.0.0.0", "::", "")  # noqa: S104  # compared with, never listened on


class Addresses:
    """One worker's.  It is of use from `start` on."""

    def __init__(self, cluster: Cluster, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._settings, self._clock = cluster, settings, clock
        self._secret = secrets.token_hex(32)
        self._listening, self._own = Listening(), ""
        self._address: tuple[str, int] | None = None
        self._routes: dict[str, Route] = {}
        self._read_at = float("-inf")
        self._lock = BoundedSemaphore()
        self._machine = _machine()
        self._warned: set[str] = set()

    @property
    def active(self) -> bool:
        """Whether this worker forwards requests, and takes forwarded ones."""
        return self._settings.advertise != OFF

    @property
    def options(self) -> ForwardingOptions:
        """As `Routes.options`."""
        settings = self._settings
        return ForwardingOptions(settings.max_connections, settings.ping_interval + settings.ping_timeout
                                 + ANSWER_MARGIN, settings.outbox_age)

    @property
    def secret(self) -> bytes:
        """As `Routes.secret`."""
        return self._secret.encode()

    def start(self, listening: Listening) -> None:
        """The server listens there."""
        self._listening, self._address = listening, None

    def renew(self) -> None:
        """With each beat: agree with the others on the secret.  Raises BrokerUnavailable."""
        if self.active:
            self._secret = self._cluster.secret(self._secret, SECRET_TTL)

    def fact(self) -> dict[str, object]:
        """What the lease says of this worker's address; nothing where no other host could reach it."""
        if self._address is None and self.active:
            self._address = self._find_own()
        if self._address is None:
            return {}
        return {FACT: {"host": self._address[0], "port": self._address[1], "machine": self._machine,
                       "certificates": list(self._listening.certificates)}}

    def find(self, token: str) -> Route | None:
        """As `Routes.find`."""
        if self._clock() - self._read_at > FRESH or token not in self._routes:
            self._read(self._clock())
        return self._routes.get(token)

    def _read(self, asked_at: float) -> None:
        """Read all leases, once for all who ask at the same time.  While Redis is away the last ones count."""
        with self._lock:
            if self._read_at > asked_at:
                return
            sleep(max(0.0, self._read_at + READ_EVERY - self._clock()))
            self._read_at = self._clock()
            try:
                leases = self._cluster.workers()
            except BrokerUnavailable as error:
                log.info("where other hosts are is not known anew: %s", error)
                return
            found = ((token, self._route(token, facts.get(FACT))) for token, facts in leases.items())
            self._routes = {token: route for token, route in found if route is not None}

    def _route(self, token: str, fact: Any) -> Route | None:
        """Of a lease's fact; None where it has none, or one that leads nowhere from here."""
        if not isinstance(fact, Mapping):
            return None
        route = Route(str(fact["host"]), int(fact["port"]), frozenset(map(str, fact["certificates"])))
        if (route.host, route.port) == self._address and fact["machine"] == self._machine:
            return None  # this host's own port: its workers pass connections on to each other
        if _loopback(route.host) and fact["machine"] != self._machine:
            self._warn(token, f"its address {route.host} is of the loopback: set WSAPP_ADVERTISE there")
            return None
        return route

    def _warn(self, token: str, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning("requests for worker %s on another host are not forwarded: %s", token, message)

    def _find_own(self) -> tuple[str, int] | None:
        """WSAPP_ADVERTISE, or the address listened on, or that of the interface which reaches Redis."""
        listened = self._listening.addresses
        if not listened:
            return None
        host, port = next((each for each in listened if not _loopback(each[0])), listened[0])
        if self._settings.advertise is not None:
            given, given_port = split_address(self._settings.advertise)
            return given, given_port or port
        if host not in ANY:
            return host, port
        outgoing = _outgoing(self._settings.redis_url or "")
        return None if outgoing is None else (outgoing, port)


def _loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")


def _outgoing(url: str) -> str | None:
    """The address of the interface that reaches Redis; no packet is sent.  None when its name is not known now."""
    try:
        first = urlsplit(url).netloc.rpartition("@")[2].partition(",")[0]
        host, port = split_address(first)
        for family, kind, proto, _, address in socket.getaddrinfo(host or "localhost", port or REDIS_PORT,
                                                                  type=socket.SOCK_DGRAM):
            with socket.socket(family, kind, proto) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        log.info("the interface that reaches Redis is not known yet: %s", error)
    return None


def _machine() -> str:
    """Names this machine, or network namespace of it, since it was booted: its loopback is not that of others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return socket.gethostname()
