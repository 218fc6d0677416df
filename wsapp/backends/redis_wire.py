"""Connections to Redis: opening one, asking over it within a deadline, and a pool of them.

redis-py connects (TCP, TLS, unix socket, AUTH, SELECT); from there on the bytes are ours.  That keeps each wait
under one deadline, costs a fraction of its pipeline, and lets the live connection read without decoding.  Nothing
here knows gevent: in a patched worker the sockets, locks and threads of the standard library are greenlets.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import hiredis
from redis.backoff import NoBackoff
from redis.connection import Connection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

from wsapp.backends.redis_errors import unavailable
from wsapp.backends.redis_keys import RedisKeys
from wsapp.backends.redis_scripts import BY_SHA, GENERATION, SCRIPTS, Command
from wsapp.backends.redis_tls import TlsSocket
from wsapp.errors import BrokerUnavailable, SettingsError

HOUR: Final = 3600.0
CHUNK: Final = 65_536
MOST_CONNECTIONS: Final = 32
FAILURES: Final = (RedisError, OSError, hiredis.HiredisError)
_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
_POOL_ONLY: Final = ("max_connections", "timeout", "connection_class", "retry_on_error", "retry_on_timeout")


def pack(commands: Iterable[Command]) -> bytes:
    """The commands as the server reads them (RESP arrays of bulk strings)."""
    return b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where the server is and how to reach it, from a URL."""

    kind: type[Any]
    options: dict[str, Any]
    where: str
    database: int

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read `redis://`, `rediss://`, `unix://`, `valkey://` or `valkeys://`.  Raises SettingsError."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _SCHEMES:
            raise SettingsError("the Redis URL has a wrong scheme: write redis://host:port/0"
                                f" (or {', '.join(f'{name}://' for name in _SCHEMES if name != 'redis')})")
        try:
            options: dict[str, Any] = parse_url(f"{_SCHEMES[scheme]}://{rest}")  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise SettingsError(f"the Redis URL cannot be read: {error}") from error
        kind = options.get("connection_class", Connection)
        for name in _POOL_ONLY:
            options.pop(name, None)
        where = str(options.get("path")) if issubclass(kind, UnixDomainSocketConnection) else (
            f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")
        return cls(kind, options, where, int(options.get("db", 0)))

    def connect(self, timeout: float) -> Any:
        """A connected and authenticated redis-py connection, tried once.  Raises redis-py's errors."""
        options = {**self.options, "socket_timeout": timeout, "socket_connect_timeout": timeout, "protocol": 2,
                   "retry": Retry(NoBackoff(), 0), "driver_info": None}
        connection = self.kind(**options)
        connection.connect()
        return connection


class RedisWire:
    """One connection to the server.  Not for two threads at once, except that one may read while one sends."""

    __slots__ = ("_connection", "reader", "sock")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        sock = connection._sock
        self.sock: socket.socket | TlsSocket = TlsSocket(sock) if isinstance(sock, ssl.SSLSocket) else sock
        self.reader = hiredis.Reader()

    def ask(self, commands: Sequence[Command], wait: float, patient: bool = False) -> list[Any]:
        """Send the commands and return their replies; an error reply is a `hiredis.ReplyError` among them.

        The whole takes at most `wait` seconds; when `patient`, `wait` begins anew whenever something arrives.
        Raises TimeoutError and OSError, after which the connection is of no use.
        """
        deadline = time.monotonic() + wait
        self.sock.settimeout(wait)
        self.sock.sendall(pack(commands))
        replies: list[Any] = []
        while True:
            while len(replies) < len(commands):
                reply = self.reader.gets()
                if reply is False:
                    break
                replies.append(reply)
            else:
                return replies
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            self._receive()
            if patient:
                deadline = time.monotonic() + wait

    def wait_for_ever(self) -> None:
        """From now on `sock.recv` waits without a timeout; somebody else watches over the silence."""
        if isinstance(self.sock, TlsSocket):
            self.sock.settimeout(HOUR)  # TLS is driven by waits that need some timeout
        else:
            self.sock.settimeout(None)

    def _receive(self) -> None:
        data = self.sock.recv(CHUNK)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self.reader.feed(data)

    def idle(self) -> bool:
        """Whether it is open with nothing to read, as it must be between two questions."""
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)
        except BlockingIOError:
            return True
        except OSError:  # reset by the other side
            return False
        return False  # closed by the other side, or an answer nobody asked for

    def shutdown(self) -> None:
        """Wake whoever reads from it: it sees the end."""
        with suppress(OSError):  # already closed by the other side
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it.  Idempotent."""
        self._connection.disconnect()


def open_wire(address: RedisAddress, keys: RedisKeys, timeout: float) -> RedisWire:
    """Connect, load the scripts, and begin a new generation if this is another server than before (DESIGN 6).

    Raises redis-py's errors, OSError or hiredis.ReplyError.
    """
    wire = RedisWire(address.connect(timeout))
    try:
        told, *loaded = wire.ask([("INFO", "server"), *(("SCRIPT", "LOAD", s.text) for s in SCRIPTS)], timeout)
        for reply in loaded:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        command = GENERATION.command([keys.generation], [_run_id(told), secrets.token_hex(4)])
        (token,) = wire.ask([command], timeout)
        if isinstance(token, hiredis.ReplyError):
            raise token
    except BaseException:
        wire.close()
        raise
    return wire


def _run_id(info: object) -> str:
    """The `run_id` of INFO's server section; empty when the server (a proxy, an ACL) does not tell."""
    if isinstance(info, bytes):
        for line in info.decode("utf-8", "replace").splitlines():
            if line.startswith("run_id:"):
                return line[7:].strip()
    return ""


class RedisPool:
    """Connections for questions.  Each call takes one, asks once, and never tries again (G7).

    Safe for threads, greenlets and fork: a child begins with no connections.
    """

    def __init__(self, address: RedisAddress, keys: RedisKeys, timeout: float) -> None:
        self.address, self.keys, self.timeout = address, keys, timeout
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._idle: list[RedisWire] = []
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._pid = os.getpid()

    def ask(self, commands: Sequence[Command], patient: bool = False) -> list[Any]:
        """All replies in one round trip.  Raises BrokerUnavailable on any failure and on any error reply."""
        if self._pid != os.getpid():
            self._begin()
        slots = self._slots
        if not slots.acquire(timeout=self.timeout):
            raise BrokerUnavailable(f"Redis at {self.address.where}: all {MOST_CONNECTIONS} connections wait for it")
        try:
            return self._ask(commands, patient)
        except FAILURES as error:
            raise self.unavailable(error) from error
        finally:
            slots.release()

    def _ask(self, commands: Sequence[Command], patient: bool) -> list[Any]:
        wire = self._take() or open_wire(self.address, self.keys, self.timeout)
        try:
            replies = wire.ask(commands, self.timeout, patient)
            self._ask_forgotten(wire, commands, replies)
        except BaseException:
            wire.close()
            raise
        if self._closed:
            wire.close()
        else:
            self._idle.append(wire)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        return replies

    def _ask_forgotten(self, wire: RedisWire, commands: Sequence[Command], replies: list[Any]) -> None:
        """After SCRIPT FLUSH: send the texts instead of the hashes that the server did not know, in their order."""
        missed = [i for i, reply in enumerate(replies)
                  if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")]
        if missed:
            again = [BY_SHA[str(commands[i][1])].in_full(commands[i]) for i in missed]
            for i, reply in zip(missed, wire.ask(again, self.timeout), strict=True):
                replies[i] = reply

    def _take(self) -> RedisWire | None:
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if wire.idle():
                return wire
            wire.close()
        return None

    def unavailable(self, error: Exception) -> BrokerUnavailable:
        """The error as wsapp raises it."""
        return unavailable(error, self.address.where, self.timeout)

    def close(self) -> None:
        """Close the idle connections now and those in use after their answer.  Idempotent."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
