"""Any worker may get any request; the one that owns the session answers it.

A polling client's requests come over several TCP connections, and without a sticky balancer each may be accepted by
another worker.  Every sid begins with its worker's token, so a worker that has read the request line and finds the sid
of a colleague in it passes the connected socket on by SCM_RIGHTS over a Unix datagram socket (unix(7)), and with it
the bytes that it has read.
"""

from __future__ import annotations

import array
import io
import json
import logging
import re
import socket as stdlib_socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import gevent
from gevent import socket

from wsapp.core.formats import HANDED
from wsapp.transport import runtime_directory

log = logging.getLogger(__name__)

MAX_REQUEST_LINE: Final = 65_536  # bytes: a token with many groups, a stream of all the rooms that a session may have
READ_AHEAD: Final = 8192  # bytes of a request that may be read behind its line
LARGEST: Final = MAX_REQUEST_LINE + READ_AHEAD + 1024  # of a datagram
OWNER: Final = re.compile(r"([0-9a-f]{8})[A-Za-z0-9_-]")
GIVE_PATIENCE: Final = 2.0  # seconds to wait for a colleague whose queue is full
GIVE_PAUSE: Final = 0.002
ALONE_FOR: Final = 0.1  # seconds
RECEIVE_LIMIT: Final = 64  # descriptors taken up per wake-up

Serve = Callable[[Any, Any, bytes], None]


class ReaderSocket(socket.SocketIO):  # type: ignore[misc]  # gevent has no types for it
    """The raw layer below a handler's buffer.  `early` are bytes that somebody has read from the socket before;
    `dry` makes the layer look empty, so that the buffer alone can be asked; `received` counts its bytes."""

    def __init__(self, sock: Any, early: bytes = b"") -> None:
        super().__init__(sock, "rb")
        self._early = early
        self.dry = False
        self.received = 0

    def readinto(self, buffer: Any) -> int | None:
        if self._early:
            count: int | None = len(buffer)
            part, self._early = self._early[:count], self._early[count:]
            buffer[:len(part)] = part
            count = len(part)
        elif self.dry:
            return None
        else:
            count = super().readinto(buffer)
        self.received += count or 0
        return count


def request_reader(sock: Any, early: bytes = b"") -> io.BufferedReader:
    """A buffered reader whose unread part can be seen without touching the socket."""
    return io.BufferedReader(ReaderSocket(sock, early), READ_AHEAD)


def has_buffered(reader: io.BufferedReader) -> bool:
    """Whether bytes of a further request (HTTP pipelining) were already read from the socket."""
    return bool(_buffered(reader))


def take_buffered(reader: io.BufferedReader) -> bytes:
    """The bytes that were read from the socket and that nobody has taken."""
    return reader.read(len(_buffered(reader)))


def _buffered(reader: io.BufferedReader) -> bytes:
    raw = reader.raw
    assert isinstance(raw, ReaderSocket)
    raw.dry = True
    try:
        return reader.peek(1)
    finally:
        raw.dry = False


class Handoff:
    """One worker's place among its colleagues.  `serve(sock, address, early)` handles a connection as if accepted here;
    the bytes `early` have been read from it."""

    def __init__(self, directory: Path, token: str, serve: Serve) -> None:
        self._directory, self.token, self._serve = directory, token, serve
        self._path = directory / f"{token}.sock"
        self._inbox: Any = None
        self._watcher: Any = None
        self._started = False
        self._alone, self._look_again = False, 0.0
        self.given = self.taken = 0

    def start(self) -> None:
        """Take descriptors from now on.  Raises OSError where no socket can be made."""
        self._started = True
        self._bind()

    def _bind(self) -> None:
        runtime_directory.require(self._directory)
        self._inbox = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
        self._inbox.bind(str(self._path))
        self._inbox.setblocking(False)
        self._watcher = gevent.get_hub().loop.io(self._inbox.fileno(), 1)
        self._watcher.start(self._receive)

    def heal(self) -> None:
        """Be reachable again when somebody has removed the socket or its directory, as cleaners of temporary files do;
        looked at every second."""
        if not self._started or self._watcher is not None and self._path.exists():
            return
        log.warning("%s is gone: it is made again (use a runtime directory that nobody cleans: XDG_RUNTIME_DIR, or "
                    "RuntimeDirectory= of systemd)", self._path)
        if self._watcher is not None:
            self._receive()  # what colleagues have sent before
        self._unbind()
        try:
            self._bind()
        except OSError as error:
            log.error("polling clients of other workers do not reach this one: %s", error)

    def stop(self) -> None:
        """Take no more.  Idempotent."""
        self._started = False
        self._unbind()

    def _unbind(self) -> None:
        if self._watcher is None:
            return
        self._watcher.close()
        self._watcher = None
        self._inbox.close()
        self._path.unlink(missing_ok=True)

    def alone(self) -> bool:
        """Whether there is no colleague to pass anything to; looked up ten times a second at most."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + ALONE_FOR
            self._alone = all(path == self._path for path in self._directory.glob("*.sock"))
        return self._alone

    def owner_of(self, request_line: bytes) -> str | None:
        """The token of the colleague whose session the request names; None when it is ours or nobody's."""
        owner = owner_in(request_line)
        return None if owner == self.token else owner

    def give(self, owner: str, sock: Any, address: Any, early: bytes = b"") -> bool:
        """Pass a connection to its owner, with the bytes that were read from it.

        False when there is no such worker: then it is answered here, with the
        protocol's "Session ID unknown", and the client connects anew."""
        told = json.dumps({"v": HANDED, "address": address}).encode() + b"\n" + early
        giver = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
        giver.setblocking(False)
        try:
            self._send(giver, owner, told, sock.fileno())
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            log.warning("worker %s does not take connections: %s", owner, error)
            return False
        finally:
            giver.close()
        self.given += 1
        return True

    def _send(self, giver: Any, owner: str, told: bytes, descriptor: int) -> None:
        """A datagram queue holds few (net.unix.max_dgram_qlen, often 10): a full one is waited for, for a while."""
        # socket.send_fds ignores its address argument (Python 3.11).
        rights = (stdlib_socket.SOL_SOCKET, stdlib_socket.SCM_RIGHTS, array.array("i", [descriptor]))
        deadline = time.monotonic() + GIVE_PATIENCE
        while True:
            try:
                giver.sendmsg([told], [rights], 0, str(self._directory / f"{owner}.sock"))
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
            gevent.sleep(GIVE_PAUSE)

    def _receive(self) -> None:
        for _ in range(RECEIVE_LIMIT):
            try:
                told, descriptors, _flags, _peer = stdlib_socket.recv_fds(self._inbox, LARGEST, 4)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                self.taken += 1
                gevent.spawn(self._adopt, descriptor, told)

    def _adopt(self, descriptor: int, told: bytes) -> None:
        sock = socket.socket(fileno=descriptor)
        head, _, early = told.partition(b"\n")
        written = json.loads(head)
        try:
            if written["v"] != HANDED:  # after a reload to a release that is no neighbour
                log.error("a connection is not taken: it was handed over in format %s, this worker reads %s",
                          written["v"], HANDED)
                return
            address = written["address"]
            self._serve(sock, tuple(address) if isinstance(address, list) else address, early)
        finally:
            sock.close()


def owner_in(request_line: bytes) -> str | None:
    """The token in the `sid` of a request's query, read as the engine reads it."""
    _, mark, query = request_line.partition(b"?")
    if not mark or b"sid" not in query and b"%" not in query:
        return None
    values = parse_qs(query.split(b" ")[0].decode("latin-1")).get("sid")
    found = OWNER.match(values[0]) if values else None
    return found.group(1) if found is not None else None
