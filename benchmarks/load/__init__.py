"""The load client and the reference loop: C, compiled on the spot, driven over pipes and one shared page."""

from __future__ import annotations

import json
import mmap
import os
import select
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import Failed, Process

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"


def compiled(name: str) -> Path:
    """The program made from `<name>.c`, compiled anew when a source is younger."""
    program = BUILD / name
    sources = [HERE / f"{name}.c", HERE / "wire.h"]
    if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        BUILD.mkdir(exist_ok=True)
        done = subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, sources[0], "-lz"],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"gcc cannot compile {sources[0].name}:\n{done.stderr}")
    return program


class SharedPage:
    """The page that client, reference loop and publishers share: delivered, start, stop (see load/wire.h)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 4096)

    @property
    def delivered(self) -> int:
        """Events that arrived at the load client so far."""
        return int(struct.unpack_from("<Q", self._map, 0)[0])

    def run_reference(self, seconds: float) -> None:
        """Let the reference loop send for so long, starting in 50 ms; returns when it is over."""
        start = time.monotonic_ns() + 50_000_000
        struct.pack_into("<QQ", self._map, 8, start, start + int(seconds * 1e9))
        time.sleep(seconds + 0.05)

    def rest_reference(self) -> None:
        """Send it back to its wait, so that the next run counts from nothing."""
        struct.pack_into("<QQ", self._map, 8, 0, 0)
        time.sleep(0.05)


class LoadClient(Process):
    """The load client; every method is one command."""

    def __init__(self, folder: Path, port: int, clients: int, page: SharedPage | None = None,
                 **options: object) -> None:
        given = {"port": port, "clients": clients, **options}
        if page is not None:
            given["shared"] = page.path
        arguments = [text for name, value in given.items() for text in (f"--{name}", str(value))]
        super().__init__("load client", [str(compiled("client")), *arguments], folder / "client.log", piped=True)
        self.clients = clients
        self._rest = b""

    def _say(self, command: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(command.encode() + b"\n")
        self.popen.stdin.flush()

    def _hear(self, timeout: float) -> dict[str, Any]:
        assert self.popen.stdout is not None
        end = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.popen.stdout], [], [], left)[0]:
                raise Failed(f"the load client did not answer in {timeout} s:\n{self.tail()}")
            data = os.read(self.popen.stdout.fileno(), 65536)
            if not data:
                raise Failed(f"the load client ended:\n{self.tail()}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))

    def ready(self, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until all are subscribed.  Raises Failed when one could not be."""
        answer = self._hear(timeout)
        if answer["failed"]:
            raise Failed(f"{answer['failed']} of {self.clients} clients did not get in:\n{self.tail()}")
        return answer

    def report(self) -> dict[str, Any]:
        """The counters since the last reset."""
        self._say("report")
        return self._hear(20.0)

    def reset(self) -> None:
        """Zero the counters."""
        self._say("reset")

    def mute(self, count: int) -> None:
        """The first `count` clients stop reading."""
        self._say(f"mute {count}")

    def unmute(self) -> None:
        """They read again."""
        self._say("unmute")

    def echo(self, every_ms: int) -> None:
        """One acknowledged event from one client after the other; 0 ends it."""
        self._say(f"echo {every_ms}")

    def storm(self, resume: bool, timeout: float = 60.0) -> dict[str, Any]:
        """Cut all, connect all again, with their `pid` when `resume`; waits until all are back."""
        self._say(f"storm {int(resume)}")
        return self.ready(timeout)

    def settle(self, expected: int, timeout: float = 20.0) -> dict[str, Any]:
        """Wait until `expected` events have come, or none comes for a second; the report then."""
        last, at = -1, time.monotonic()
        end = at + timeout
        while time.monotonic() < end:
            report = self.report()
            if report["deliveries"] >= expected:
                return report
            if report["deliveries"] != last:
                last, at = report["deliveries"], time.monotonic()
            elif time.monotonic() - at > 1.0:
                return report
            time.sleep(0.02)
        return self.report()
