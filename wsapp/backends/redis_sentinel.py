"""A primary that sentinels know: where it is is asked for every connection, so that each goes to the one of now.

    redis+sentinel://[user:password@]host[:port][,host[:port]...]/service[/db][?option=...]

`rediss+sentinel://` speaks TLS with the sentinels and with the servers; `valkey+sentinel://` and `valkeys+sentinel://`
are the same two.  python-socketio writes the path the other way round, `/db/service`; both are understood.  User,
password and options are for the servers, `ssl_*` for both, `sentinel_username` and `sentinel_password` for the
sentinels.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import unquote

import hiredis
from redis.connection import parse_url

from wsapp.backends.redis_errors import Explained, unavailable
from wsapp.backends.redis_scripts import Command
from wsapp.backends.redis_wire import FAILURES, Address, RedisAddress, RedisWire
from wsapp.errors import SettingsError

SENTINEL_PORT: Final = 26379
SHAPE: Final = re.compile(r"(redis|valkey)(?P<tls>s?)\+sentinel://(?:(?P<login>[^/?]*)@)?(?P<hosts>[^/?@]+)"
                          r"/(?P<path>[^?]*)(?P<query>\?.*)?", re.DOTALL)
HOST: Final = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?")


def read_address(url: str) -> Address:
    """The address of a URL of any kind.  Raises SettingsError."""
    return SentinelAddress.parse(url) if url.partition("://")[0].endswith("+sentinel") else RedisAddress.parse(url)


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """The primary of a service, whichever server that is."""

    service: str
    server: RedisAddress  # any of them: all but where it is
    sentinels: list[RedisAddress]  # the one that answered last comes first
    moves: bool = True
    heard: list[int] = field(default_factory=lambda: [0])  # the newest configuration that a sentinel told

    @classmethod
    def parse(cls, url: str) -> SentinelAddress:
        """Read the URL.  Raises SettingsError."""
        parts = SHAPE.fullmatch(url)
        hosts = [HOST.fullmatch(host) for host in parts["hosts"].split(",")] if parts else []
        if parts is None or not all(hosts):
            raise SettingsError("the Redis URL cannot be read: write redis+sentinel://host:port,host:port/service/0")
        service, database = _service(parts["path"])
        login = f"{parts['login']}@" if parts["login"] else ""
        server = RedisAddress.parse(f"redis{parts['tls']}://{login}localhost/{database}{_without_ours(parts['query'])}")
        options = {name: value for name, value in server.options.items() if name.startswith("ssl_")}
        options |= _for_sentinels(parts["query"])
        sentinels = [RedisAddress.of(server.kind, {**options, "host": host["host"].strip("[]"),
                                                   "port": int(host["port"] or SENTINEL_PORT)}, host[0])
                     for host in hosts if host]
        return cls(service, server, sentinels)

    @property
    def where(self) -> str:
        """Service and sentinels."""
        return f"{self.service} (of the sentinels {', '.join(sorted(one.where for one in self.sentinels))})"

    @property
    def database(self) -> int:
        return self.server.database

    @property
    def greeting(self) -> tuple[Command, ...]:
        return self.server.greeting

    def connect(self, timeout: float) -> Any:
        """As `Address.connect`, to the primary of now; finding it may take half of the time."""
        deadline = time.monotonic() + timeout
        host, port = self.primary(timeout / 2)
        there = replace(self.server, options={**self.server.options, "host": host, "port": port})
        try:
            return there.connect(max(timeout / 2, deadline - time.monotonic()))
        except FAILURES as error:
            raise Explained(f"its primary is {unavailable(error, f'{host}:{port}', timeout)}") from error

    def moved(self, connection: Any, timeout: float) -> bool:
        """As `Address.moved`; False when no sentinel answers, or none knows for certain: nobody leaves a server for a
        doubt."""
        try:
            told = self._look(timeout)
        except FAILURES:
            return False
        return told.certain and told.place != (connection.host, connection.port)

    def primary(self, timeout: float) -> tuple[str, int]:
        """Host and port, by the first sentinel that sees the primary alive and has not missed a failover; else by one
        that alone thinks it dead, while the others have not agreed, or that was behind.  Raises Explained."""
        return self._look(timeout).place

    def _look(self, timeout: float) -> _Told:
        """As `primary`.  Each sentinel gets its share of the time.  Every failover has a greater number
        (`config-epoch`), by which the sentinels too judge who is behind; where all are behind, they are new."""
        deadline, problem = time.monotonic() + timeout, Explained("it has no sentinels")
        doubtful: list[_Told] = []
        sentinels = list(self.sentinels)
        for number, sentinel in enumerate(sentinels):
            share = max(0.001, (deadline - time.monotonic()) / (len(sentinels) - number))
            try:
                told = _ask(sentinel, self.service, share)
            except FAILURES as error:
                problem = _explained(error, sentinel, self.service, share)
                continue
            if "o_down" in told.flags:
                problem = Explained(f"its sentinels agree that {told.place[0]}:{told.place[1]} is down and have not"
                                    " promoted another yet")
            elif "s_down" in told.flags or told.number < self.heard[0]:
                doubtful.append(told)
            else:
                if number:
                    self.sentinels[:] = [sentinel, *(one for one in sentinels if one is not sentinel)]
                self.heard[0] = told.number
                return told
        if not doubtful:
            raise problem
        best = max(doubtful, key=_Told.trust)
        anew = len(doubtful) == len(sentinels) and "s_down" not in best.flags
        if anew:
            self.heard[0] = best.number
        return best if anew else replace(best, certain=False)


@dataclass(frozen=True, slots=True)
class _Told:
    """What one sentinel says: host and port of the primary, its flags, and the number of the last failover."""

    place: tuple[str, int]
    flags: list[str]
    number: int
    certain: bool = True

    def trust(self) -> tuple[int, bool]:
        """The greater, the better."""
        return self.number, "s_down" not in self.flags


def _ask(sentinel: RedisAddress, service: str, timeout: float) -> _Told:
    """Ask one sentinel (Sentinel API, SENTINEL MASTER)."""
    wire = RedisWire(sentinel.connect(timeout))
    try:
        *_, reply = replies = wire.ask([*sentinel.greeting, ("SENTINEL", "MASTER", service)], timeout)
    finally:
        wire.close()
    for each in replies:
        if isinstance(each, hiredis.ReplyError):
            raise each
    try:
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        return _Told((fields[b"ip"].decode(), int(fields[b"port"])), fields[b"flags"].decode().split(","),
                     int(fields.get(b"config-epoch", 0)))
    except (TypeError, KeyError, ValueError) as error:
        raise Explained(f"the sentinel {sentinel.where} answers as no sentinel does: correct the Redis URL") from error


def _explained(error: Exception, sentinel: RedisAddress, service: str, timeout: float) -> Explained:
    text = str(error)
    if isinstance(error, Explained):
        return error
    if "unknown command" in text:
        return Explained(f"{sentinel.where} is no sentinel: name the sentinels in the Redis URL, not the servers")
    if "No such master" in text:
        return Explained(f"the sentinel {sentinel.where} knows no service {service!r}: correct the Redis URL")
    if text.startswith(("NOAUTH", "WRONGPASS")):
        return Explained(f"the sentinel {sentinel.where} refused the password: put the right one into the Redis URL"
                         " (?sentinel_password=...)")
    return Explained(f"no sentinel tells where its primary is; {unavailable(error, sentinel.where, timeout)}")


def _service(path: str) -> tuple[str, int]:
    """Service and database of `service[/db]` or of python-socketio's `db/service`.  Raises SettingsError."""
    parts = [unquote(part) for part in path.strip("/").split("/") if part]
    if len(parts) == 2 and parts[0].isdecimal() and not parts[1].isdecimal():
        parts.reverse()
    if len(parts) not in (1, 2) or not all(part.isdecimal() for part in parts[1:]):
        raise SettingsError("the Redis URL cannot be read: the sentinels want the name of a service, and a database:"
                            " write redis+sentinel://host:port/service/0")
    return parts[0], int(parts[1]) if len(parts) == 2 else 0


def _without_ours(query: str | None) -> str:
    kept = [part for part in (query or "").lstrip("?").split("&") if part and not part.startswith("sentinel_")]
    return "?" + "&".join(kept) if kept else ""


def _for_sentinels(query: str | None) -> dict[str, Any]:
    """User and password for the sentinels."""
    asked: dict[str, Any] = parse_url("redis://localhost" + (query or ""))  # type: ignore[no-untyped-call]
    return {name: asked[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in asked}
