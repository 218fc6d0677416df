"""Any worker may get any request; the one that owns the session answers it.

A polling client's requests come over several TCP connections, and without a sticky balancer each may be accepted by
another worker.  Every sid begins with its worker's token, so a worker peeks at the request line and, when the sid is
a colleague's, passes the connected socket on by SCM_RIGHTS over a Unix datagram socket (unix(7)), unread.
"""

from __future__ import annotations

import _socket
import array
import io
import logging
import os
import re
import socket as stdlib_socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
from gevent import socket
from gevent.socket import wait_read

log = logging.getLogger(__name__)

PEEK_SIZE: Final = 2048
PEEK_PAUSE: Final = 0.005  # seconds between looks at a request line that has not all come
SID: Final = re.compile(rb"[?&]sid=([0-9a-f]{8})[A-Za-z0-9_-]")
GIVE_PATIENCE: Final = 2.0  # seconds to wait for a colleague whose queue is full
GIVE_PAUSE: Final = 0.002
ALONE_FOR: Final = 0.1  # seconds
RECEIVE_LIMIT: Final = 64  # descriptors taken up per wake-up


def directory_for(master_pid: int) -> Path:
    """The directory that the workers of one gunicorn master share: theirs alone (0700)."""
    path = Path(tempfile.gettempdir()) / f"wsapp-{os.getuid()}-{master_pid}"
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or path.is_symlink():
        raise PermissionError(f"{path} is not a directory of this user alone; remove it and start again")
    return path


class PeekableSocket(socket.SocketIO):  # type: ignore[misc]  # gevent has no types for it
    """The raw layer below a handler's buffer; `dry` makes it look empty, so that the buffer alone can be asked.
    `received` counts its bytes."""

    dry = False
    received = 0

    def readinto(self, buffer: Any) -> int | None:
        if self.dry:
            return None
        count: int | None = super().readinto(buffer)
        self.received += count or 0
        return count


def request_reader(sock: Any) -> io.BufferedReader:
    """A buffered reader whose unread part can be seen without touching the socket."""
    return io.BufferedReader(PeekableSocket(sock, "rb"), 8192)


def has_buffered(reader: io.BufferedReader) -> bool:
    """Whether bytes of a further request (HTTP pipelining) were already read from the socket."""
    raw = reader.raw
    assert isinstance(raw, PeekableSocket)
    raw.dry = True
    try:
        return bool(reader.peek(1))
    finally:
        raw.dry = False


def peek_request_line(sock: Any, timeout: float) -> bytes:
    """The next request's line, left in the kernel's buffer; empty when the peer closed or was silent for `timeout`."""
    deadline = time.monotonic() + timeout
    wait_read(sock.fileno(), timeout, socket.timeout("no request came"))
    while True:
        seen: bytes = sock._sock.recv(PEEK_SIZE, _socket.MSG_PEEK)
        if not seen or b"\n" in seen or len(seen) == PEEK_SIZE or time.monotonic() > deadline:
            return seen.partition(b"\n")[0]
        gevent.sleep(PEEK_PAUSE)


class Handoff:
    """One worker's place among its colleagues.  `serve(sock, address)` handles a connection as if accepted here."""

    def __init__(self, directory: Path, token: str, serve: Callable[[Any, Any], None]) -> None:
        self._directory, self.token, self._serve = directory, token, serve
        self._path = directory / f"{token}.sock"
        self._inbox: Any = None
        self._watcher: Any = None
        self._alone, self._look_again = False, 0.0
        self.given = self.taken = 0

    def start(self) -> None:
        """Take descriptors from now on."""
        self._inbox = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
        self._inbox.bind(str(self._path))
        self._inbox.setblocking(False)
        self._watcher = gevent.get_hub().loop.io(self._inbox.fileno(), 1)
        self._watcher.start(self._receive)

    def stop(self) -> None:
        """Take no more; the last worker to leave removes the directory."""
        if self._watcher is None:
            return
        self._watcher.close()
        self._watcher = None
        self._inbox.close()
        self._path.unlink(missing_ok=True)
        if any(self._directory.glob("*.sock")):
            return
        try:
            (self._directory / "load").unlink(missing_ok=True)
            self._directory.rmdir()
        except OSError:
            log.debug("colleagues are still in %s", self._directory)

    def alone(self) -> bool:
        """Whether there is no colleague to pass anything to; looked up ten times a second at most."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + ALONE_FOR
            self._alone = all(path == self._path for path in self._directory.glob("*.sock"))
        return self._alone

    def owner_of(self, request_line: bytes) -> str | None:
        """The token of the colleague whose session the request names; None when it is ours or nobody's."""
        found = SID.search(request_line)
        if found is None:
            return None
        token = found.group(1).decode()
        return None if token == self.token else token

    def give(self, owner: str, sock: Any, address: Any) -> bool:
        """Pass a connection to its owner.  False when there is no such worker: then it is answered here, with the
        protocol's "Session ID unknown", and the client connects anew."""
        told = repr(address).encode() if address else b"()"
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
                told, descriptors, _flags, _peer = stdlib_socket.recv_fds(self._inbox, 256, 4)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                self.taken += 1
                gevent.spawn(self._adopt, descriptor, _address(told))

    def _adopt(self, descriptor: int, address: Any) -> None:
        sock = socket.socket(fileno=descriptor)
        try:
            self._serve(sock, address)
        finally:
            sock.close()


def _address(told: bytes) -> tuple[str, int] | tuple[()]:
    """Read back what `give` wrote: `('127.0.0.1', 1234)`, or `()` for a Unix socket."""
    parts = told.decode().strip("()").split(",")
    return (parts[0].strip("' "), int(parts[1])) if len(parts) >= 2 and parts[0] else ()
