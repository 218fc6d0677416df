"""Processes under measurement: started, pinned, read from /proc and ended by their own id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

TICK = os.sysconf("SC_CLK_TCK")
CPUS = sorted(os.sched_getaffinity(0))


class Failed(Exception):
    """A benchmark could not be carried out; the message says which part and shows the end of its log."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One child in a session of its own, its output in a log file; leaving the block ends the whole session."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None,
                 cwd: Path | None = None, piped: bool = False) -> None:
        self.name, self.log = name, log
        self._out: IO[bytes] = log.open("ab")
        pipe = subprocess.PIPE if piped else None
        self.popen = subprocess.Popen(
            list(command), stdin=pipe or subprocess.DEVNULL, stdout=pipe or self._out, stderr=self._out,
            env=None if env is None else {**os.environ, **env}, cwd=cwd, start_new_session=True)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def check(self) -> None:
        """Raises Failed when it has ended by itself."""
        if self.popen.poll() is not None:
            raise Failed(f"{self.name} ended with {self.popen.returncode}:\n{self.tail()}")

    def stop(self, grace: float = 12.0) -> None:
        """TERM, then KILL for the session that this object started."""
        for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            if self.popen.poll() is not None:
                break
            self.popen.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(wait)
        # Workers that outlived their master are in the session (and process group) that was made for them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()


def children(pid: int) -> list[int]:
    """Direct children, oldest first."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def pin(pids: Iterable[int], cpus: Iterable[int]) -> None:
    """Keep every thread of the processes on these CPUs."""
    wanted = set(cpus)
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), wanted)


def cpu_seconds(pid: int) -> float:
    """utime + stime of the process.  Where the kernel counts ns per thread, that, which has no 10 ms steps."""
    total = 0.0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
        return total
    except (OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


def split_seconds(pid: int) -> tuple[float, float]:
    """(user, system) of the process in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICK, int(fields[12]) / TICK


def memory(pid: int) -> dict[str, int]:
    """PSS and RSS in bytes from smaps_rollup."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Pss", "Rss"):
            sizes[name.lower()] = int(value.split()[0]) * 1024
    return sizes


class Meter:
    """CPU of some processes from `start()` on."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = list(pids)
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._since = [cpu_seconds(pid) for pid in self.pids]
        self._split = [split_seconds(pid) for pid in self.pids]
        self._at = time.monotonic()

    def read(self) -> dict[str, object]:
        """`cpu` in seconds over all, the same by process, the share of it in the kernel, and the wall time."""
        each = [cpu_seconds(pid) - since for pid, since in zip(self.pids, self._since, strict=True)]
        split = [split_seconds(pid) for pid in self.pids]
        system = sum(now[1] - was[1] for now, was in zip(split, self._split, strict=True))
        return {"cpu": sum(each), "each": each, "system": system, "seconds": time.monotonic() - self._at}
