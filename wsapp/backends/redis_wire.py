"""Connections to Redis: opening one, asking over it within a deadline, and a pool of them.

redis-py connects (TCP, TLS, unix socket); from there on the bytes are ours.  That keeps each wait under one deadline,
costs a fraction of its pipeline, and lets the live connection read without decoding.  Nothing here knows gevent: in
a patched worker the sockets, locks and threads of the standard library are greenlets.
"""

from __future__ import annotations

import os
import queue
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import urlsplit

import hiredis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

from wsapp.backends.redis_errors import of_the_connection, unavailable
from wsapp.backends.redis_keys import RedisKeys
from wsapp.backends.redis_opening import Opening, start_thread
from wsapp.backends.redis_scripts import BY_SHA, GENERATION, Command, Script, scripts_in
from wsapp.backends.redis_tls import TlsConnection, TlsSocket
from wsapp.core.formats import NEWEST, OLDEST, STORED
from wsapp.errors import BrokerUnavailable, SettingsError

HOUR: Final = 3600.0
CHUNK: Final = 65_536
MOST_CONNECTIONS: Final = 32
CHECK_EVERY: Final = 1.0  # seconds between two questions whether this is still the right server
SOONEST: Final = 0.03  # seconds that a question gets at least, also when opening the connection has used up its time
FAILURES: Final = (RedisError, OSError, hiredis.HiredisError)
_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
_POOL_ONLY: Final = ("max_connections", "timeout", "connection_class", "retry_on_error", "retry_on_timeout", "retry")
# What a server answers that is no longer the one to ask: whoever reaches it finds the right one by connecting anew.
_ELSEWHERE: Final = ("READONLY", "MASTERDOWN", "MOVED")


def pack(commands: Iterable[Command]) -> bytes:
    """The commands as the server reads them (RESP arrays of bulk strings).

    hiredis calls Python to write an integer, and does not look whether that raised: a signal handler that raises just
    then (Ctrl-C, a time limit) ends the process.  So it gets none.
    """
    return b"".join([hiredis.pack_command(tuple(  # type: ignore[arg-type]
        [b"%d" % one if isinstance(one, int) else one for one in command])) for command in commands])


class Address(Protocol):
    """Where the server is.  `where` names it in messages, never with a password; `greeting` is what every connection
    to it begins with."""

    @property
    def where(self) -> str: ...
    @property
    def database(self) -> int: ...
    @property
    def greeting(self) -> tuple[Command, ...]: ...
    @property
    def moves(self) -> bool:
        """Whether somebody can be asked if the server is still the right one."""
        ...

    def connect(self, timeout: float) -> Any:
        """A connected redis-py connection, tried once.  Raises redis-py's errors."""
        ...

    def moved(self, connection: Any, timeout: float) -> bool:
        """Whether the right server is another than this connection's by now."""
        ...


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One server, from a URL."""

    kind: type[Any]
    options: dict[str, Any]
    where: str
    database: int
    greeting: tuple[Command, ...] = ()
    moves: bool = False

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read `redis://`, `rediss://`, `unix://`, `valkey://` or `valkeys://`.  Raises SettingsError."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _SCHEMES:
            raise SettingsError("the Redis URL has a wrong scheme: write redis://host:port/0"
                                f" (or {', '.join(f'{name}://' for name in _SCHEMES if name != 'redis')})")
        try:
            options: dict[str, Any] = parse_url(f"{_SCHEMES[scheme]}://{rest}")  # type: ignore[no-untyped-call]
            str(options.get("host", "")).encode("idna")
            if "path" not in options and urlsplit(url).path.strip("/"):
                int(urlsplit(url).path.strip("/"))  # redis-py takes database 0 for anything that is no number
        except ValueError as error:
            raise SettingsError(f"the Redis URL cannot be read: {error}") from error
        kind = options.get("connection_class", Connection)
        kind = TlsConnection if kind is SSLConnection else kind
        where = str(options.get("path")) if issubclass(kind, UnixDomainSocketConnection) else (
            f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")
        return cls.of(kind, options, where)

    @classmethod
    def of(cls, kind: type[Any], options: dict[str, Any], where: str) -> RedisAddress:
        """From redis-py's own words.  Raises SettingsError for what its connections do not know."""
        options = {name: value for name, value in options.items() if name not in _POOL_ONLY}
        user, password = options.pop("username", None), options.pop("password", None)
        name, database = options.pop("client_name", None), int(options.pop("db", 0))
        greeting: list[Command] = []
        if password is not None or user is not None:
            greeting.append(("AUTH", *([user] if user else []), password or ""))
        if database:
            greeting.append(("SELECT", database))
        if name:
            greeting.append(("CLIENT", "SETNAME", name))
        try:
            kind(**options)
        except (TypeError, ValueError, RedisError) as error:
            raise SettingsError(f"the Redis URL cannot be read: {_unknown(error)}") from error
        return cls(kind, options, where, database, tuple(greeting))

    def connect(self, timeout: float) -> Any:
        """As `Address.connect`.  Who we are is told by `greeting`, in one round trip with what else is to be said."""
        options = {**self.options, "socket_timeout": timeout, "socket_connect_timeout": timeout, "protocol": 2,
                   "retry": Retry(NoBackoff(), 0), "driver_info": None}
        connection = self.kind(**options)
        connection.connect()
        return connection

    def moved(self, _connection: Any, _timeout: float) -> bool:
        """As `Address.moved`: nobody to ask."""
        return False


def _unknown(error: Exception) -> str:
    """What redis-py does not understand, by its name in the URL."""
    text = str(error)
    _, found, rest = text.partition("unexpected keyword argument ")
    return f"it has no option {rest}" if found else text


class RedisWire:
    """One connection to the server.  Not for two threads at once, except that one may read while one sends."""

    __slots__ = ("connection", "deadline", "reader", "sock")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.deadline = 0.0  # of the last question, on the monotonic clock
        sock = connection._sock
        self.sock: socket.socket | TlsSocket = TlsSocket(sock) if isinstance(sock, ssl.SSLSocket) else sock
        self.reader = hiredis.Reader()

    def ask(self, commands: Sequence[Command], wait: float, patient: bool = False) -> list[Any]:
        """Send the commands and return their replies; an error reply is a `hiredis.ReplyError` among them.

        The whole takes at most `wait` seconds; when `patient`, `wait` begins anew whenever something arrives.
        Raises TimeoutError and OSError, after which the connection is of no use.
        """
        self.deadline = deadline = time.monotonic() + wait
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
                self.deadline = deadline = time.monotonic() + wait

    def wait_for_ever(self) -> None:
        """From now on `sock.recv` waits without a timeout; somebody else watches over the silence."""
        if isinstance(self.sock, TlsSocket):
            self.sock.settimeout(HOUR)  # TLS is driven by waits that need some timeout
        else:
            self.sock.settimeout(None)

    def fileno(self) -> int:
        """As `LiveSocket.fileno`."""
        return self.sock.fileno()

    def recv(self, size: int) -> bytes:
        """As `LiveSocket.recv`."""
        return self.sock.recv(size)

    def recv_now(self, size: int) -> bytes:
        """As `LiveSocket.recv_now`."""
        if isinstance(self.sock, TlsSocket):
            return self.sock.recv_now(size)
        return os.read(self.sock.fileno(), size)  # past gevent's socket, whose `recv` would wait

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
        except OSError as error:
            if not of_the_connection(error):
                raise
        return False  # closed or reset by the other side, or an answer nobody asked for

    def shutdown(self) -> None:
        """Wake whoever reads from it: it sees the end."""
        with suppress(OSError):  # already closed by the other side
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it.  Idempotent."""
        self.connection.disconnect()


def remaining(deadline: float) -> float:
    """Seconds until `deadline` of the monotonic clock.  Raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def open_wire(address: Address, keys: RedisKeys, timeout: float) -> RedisWire:
    """Connect, say who we are, load the scripts, and begin a new generation if this is another server than before
    (DESIGN 6).  A replica is refused: it hears what the primary publishes, but late.

    Connecting takes at most `timeout` seconds and so does the rest; looking up a name has no limit of its own.
    Raises redis-py's errors, OSError or hiredis.ReplyError.
    """
    wire = RedisWire(address.connect(timeout))
    deadline = time.monotonic() + timeout
    try:
        greeting = address.greeting
        replies = wire.ask([*greeting, ("INFO", "server"), ("INFO", "replication"),
                            *(("SCRIPT", "LOAD", script.text) for script in _scripts(keys))], remaining(deadline))
        refused = next((reply for reply in replies if isinstance(reply, hiredis.ReplyError)), None)
        if refused is not None:
            raise refused
        server, replication = replies[len(greeting):len(greeting) + 2]
        if _told(replication, "role") == "slave":
            raise hiredis.ReplyError("READONLY it is a replica")
        command = GENERATION.command([keys.generation], [_told(server, "run_id"), secrets.token_hex(4),
                                                         keys.partitions, STORED, OLDEST, NEWEST])
        (token,) = wire.ask([command], remaining(deadline))
        if isinstance(token, hiredis.ReplyError):
            raise token
    except BaseException:
        wire.close()
        raise
    return wire


def _scripts(keys: RedisKeys) -> Sequence[Script]:
    return scripts_in(keys.partitions, keys.sharded)


def _told(info: object, name: str) -> str:
    """A field of INFO's answer; empty when the server (a proxy) does not tell."""
    if isinstance(info, bytes):
        for line in info.decode("utf-8", "replace").splitlines():
            if line.startswith(name + ":"):
                return line[len(name) + 1:].strip()
    return ""


class RedisPool:
    """Connections for questions.  Each call takes one and asks once; it tries again only where nothing was done (G7).

    A call takes at most `timeout` seconds, or `opening` if that is more and it must open a connection first.  `moved`
    is called when the server turns out not to be the right one any more, `opened` when a new connection is made.
    Safe for threads, greenlets and fork: a child begins with no connections; and where Python enters it again, in a
    signal handler or a finalizer that runs during a call.  `longest` is the longest that a call may take, in seconds.
    """

    def __init__(self, address: Address, keys: RedisKeys, timeout: float, opening: float = 0.0) -> None:
        self.address, self.keys, self.timeout = address, keys, timeout
        self.longest = self._opening = max(timeout, opening)
        self.moved: Callable[[], None] = self.forget
        self.opened: Callable[[], None] = _nothing
        self.alone = address.moves  # whether nobody else asks if this is still the right server
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._idle: list[RedisWire] = []
        self._late: list[Opening[RedisWire]] = []  # connections that nobody waits for any more, and soon will
        # A semaphore's own lock would be held by the thread that a signal handler runs on; this one is made for that.
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(MOST_CONNECTIONS):
            self._slots.put(None)
        self._pid = os.getpid()
        self._check_at = float("inf")
        self._last: RedisWire | None = None

    def ask(self, commands: Sequence[Command], patient: bool = False) -> list[Any]:
        """All replies in one round trip.  Raises BrokerUnavailable on any failure and on any error reply."""
        if self._pid != os.getpid():
            self._begin()
        slots, deadline = self._slots, time.monotonic() + self.timeout
        try:
            slots.get(timeout=self.timeout)
        except queue.Empty:
            raise BrokerUnavailable(f"Redis at {self.address.where}: all {MOST_CONNECTIONS} connections wait for"
                                    " it") from None
        if deadline > self._check_at:
            self._check_at = deadline + CHECK_EVERY
            with suppress(RuntimeError):  # the interpreter is about to end and starts no threads any more
                start_thread(self._check)
        try:
            replies = self._ask(commands, deadline, patient)
            for reply in replies:
                if isinstance(reply, hiredis.ReplyError):
                    return self._ask_elsewhere(commands, deadline, patient, replies)
            return replies
        except FAILURES as error:
            if not of_the_connection(error):
                raise
            if str(error).startswith(_ELSEWHERE):
                self.moved()
            raise self.unavailable(error) from error
        finally:
            slots.put(None)

    def _ask(self, commands: Sequence[Command], deadline: float, patient: bool) -> list[Any]:
        idle = self._idle
        wire = self._take()
        if wire is None:
            left = deadline - self.timeout + self._opening - time.monotonic()
            self._last = wire = self._open_within(max(SOONEST, left - SOONEST))
            if self.alone:
                self._check_at = deadline + CHECK_EVERY
        try:
            replies = wire.ask(commands, max(SOONEST, deadline - time.monotonic()), patient)
            self._ask_forgotten(wire, commands, replies)
        except BaseException:
            wire.close()
            raise
        if self._closed or idle is not self._idle:  # forgotten meanwhile
            wire.close()
        else:
            idle.append(wire)
        return replies

    def _check(self) -> None:
        if self._last is not None and self.address.moved(self._last.connection, self.timeout):
            self.moved()

    def _open(self, patience: float) -> RedisWire:
        """Make a connection; runs on a thread of its own."""
        wire = open_wire(self.address, self.keys, patience)
        self.opened()
        return wire

    def _open_within(self, patience: float) -> RedisWire:
        """A new connection within `patience` seconds.  Raises TimeoutError; then it is there for the next call, or the
        one after that."""
        deadline, late = time.monotonic() + patience, self._late
        while late:
            try:
                opening = late.pop()
                wire = opening.wait(patience)
            except IndexError:  # another thread was quicker
                break
            except FAILURES as error:  # some time ago: that says nothing about now
                if not of_the_connection(error):
                    raise
                continue
            if wire is None:
                return self._leave(opening, late)
            if wire.idle():
                return wire
            wire.close()
        opening = Opening(lambda: self._open(patience))
        return opening.wait(deadline - time.monotonic()) or self._leave(opening, late)

    def _leave(self, opening: Opening[RedisWire], late: list[Opening[RedisWire]]) -> NoReturn:
        late.append(opening)
        if self._closed or late is not self._late:  # forgotten meanwhile
            opening.discard()
        raise TimeoutError

    def _ask_elsewhere(self, commands: Sequence[Command], deadline: float, patient: bool,
                       replies: list[Any]) -> list[Any]:
        """A primary that has become a replica has done nothing: ask the one that took its place, if it is there
        already.  Raises the first error reply."""
        errors = _errors(replies)
        if len(errors) == len(commands) and all(str(error).startswith(_ELSEWHERE) for error in errors):
            self.moved()
            replies = self._ask(commands, deadline, patient)
            errors = _errors(replies)
        if errors:
            raise errors[0]
        return replies

    def _ask_forgotten(self, wire: RedisWire, commands: Sequence[Command], replies: list[Any]) -> None:
        """After SCRIPT FLUSH: send the texts instead of the hashes that the server did not know, in their order."""
        missed = [i for i, reply in enumerate(replies)
                  if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")]
        if missed:
            again = [BY_SHA[str(commands[i][1])].in_full(commands[i]) for i in missed]
            for i, reply in zip(missed, wire.ask(again, remaining(wire.deadline)), strict=True):
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

    def forget(self) -> None:
        """Close the idle connections now and those in use after their answer; the next call opens a new one."""
        idle, self._idle = self._idle, []
        late, self._late = self._late, []
        while idle:
            idle.pop().close()
        while late:
            late.pop().discard()

    def close(self) -> None:
        """As `forget`, and for good: none is kept any more.  Idempotent."""
        self._closed = True
        self.forget()


def _nothing() -> None:
    return None


def _errors(replies: Sequence[Any]) -> list[Exception]:
    return [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
