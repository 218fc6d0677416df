"""Real servers for tests: gunicorn with our worker class in its own process group, a real Valkey, a free port.

Every wait has a generous deadline and looks at a condition; nothing sleeps for a guessed time.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.valkey import Valkey, free_port

if TYPE_CHECKING:
    from wsapp import Emitter

ROOT = Path(__file__).resolve().parent.parent
START_DEADLINE = 30.0
DEADLINE = 30.0
OURS = ("WSAPP_", "REDIS_URL", "WEBSOCKET_", "MAX_CONNECTIONS", "PING_", "MAX_EVENTS_PER_SEC", "WEB_CONCURRENCY",
        "GUNICORN_CMD_ARGS")


class Reply(NamedTuple):
    """One HTTP answer, refused or not; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def http(url: str, data: bytes | None = None, *, method: str | None = None, timeout: float = DEADLINE,
         headers: Mapping[str, str] | None = None, ca: Path | None = None) -> Reply:
    """GET, or POST when there is data; a refusal is an answer, not an exception.  `ca` is trusted for https."""
    request = urllib.request.Request(url, data=data, headers=dict(headers or {}), method=method)
    context = ssl.create_default_context(cafile=ca) if ca is not None else None
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
            return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return Reply(refused.code, {k.lower(): v for k, v in refused.headers.items()}, refused.read())


def wait_until(condition: Callable[[], Any], what: str, timeout: float = DEADLINE, step: float = 0.02) -> Any:
    """The first true value of `condition`; fails the test when none comes in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s in vain: {what}")
        time.sleep(step)


class Server:
    """One gunicorn with `workers` workers.  Without `redis_url` it gets a Valkey of its own in `valkey`; with an
    empty one it is left to start its private one.  `ca` signed its certificate, if it speaks TLS.  It listens at
    `bind` too.  `place` is what its command begins with, like `ip netns exec`; `host` is where it then listens.
    `root` has the code that it runs."""

    live: ClassVar[list[Server]] = []

    def __init__(self, workers: int = 2, redis_url: str | None = None, env: Mapping[str, str] | None = None,
                 app: str = "app:app", port: int | None = None, ca: Path | None = None,
                 config: str = "gunicorn.conf.py", bind: str | None = None, ready_at: str = "/readyz",
                 host: str = "127.0.0.1", place: Sequence[str] = (), root: Path = ROOT) -> None:
        self.root = root
        self.ready_at = ready_at
        self.bind = bind
        self.workers, self.app, self.ca, self.config = workers, app, ca, config
        self.host, self.place = host, list(place)
        self.port = port or free_port()
        self.valkey = Valkey().start() if redis_url is None else None
        self.redis_url = self.valkey.url if self.valkey else str(redis_url)
        self.env = dict(env or {})
        self.log = Path(tempfile.mkstemp(prefix="wsapp-test-", suffix=".log")[1])
        self.marked = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._emitter: Emitter | None = None

    def __enter__(self) -> Self:
        Server.live.append(self)
        try:
            return self.start()
        except BaseException:
            print(self.log_tail())  # pytest shows it with the failure
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if error is not None:  # it is gone when the failure is reported: pytest shows what was printed
            print(f"log of {self.app} on {self.port}:\n{self.log_tail()}")
        self.close()

    @property
    def url(self) -> str:
        return f"http{'s' if self.ca else ''}://{self.host}:{self.port}"

    @property
    def socket_url(self) -> str:
        """Where a bare websocket client goes."""
        return f"ws{'s' if self.ca else ''}://{self.host}:{self.port}/socket.io/?EIO=4&transport=websocket"

    @property
    def polling_url(self) -> str:
        """Where a bare polling client goes."""
        return f"{self.url}/socket.io/?EIO=4&transport=polling"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def emitter(self) -> Emitter:
        """An Emitter on the server's Redis, in this process, with the server's limits; patient on a busy machine."""
        from wsapp import Emitter

        if self._emitter is None:
            limits: dict[str, Any] = {
                name.removeprefix("WSAPP_").lower(): value for name, value in self.env.items()
                if name.startswith(("WSAPP_HISTORY_", "WSAPP_PARTITIONS"))}
            self._emitter = Emitter(self.redis_url or None, websocket_port=self.port, timeout=5.0, **limits)
        return self._emitter

    def start(self, wait: bool = True) -> Self:
        """Start (again, on the same port) and wait for readiness."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        env = {**inherited, "PYTHONPATH": str(self.root), "PYTHONUNBUFFERED": "1", "REDIS_URL": self.redis_url,
               "WEBSOCKET_PORT": str(self.port), "WSAPP_BIND": self.host,
               "WEB_CONCURRENCY": str(self.workers), **self.env}
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*self.place, sys.executable, "-m", "gunicorn", "-c", self.config, *self._binds(), self.app],
                cwd=self.root, env=env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        if wait:
            wait_until(self._started, f"{self.app} ready on {self.port}", START_DEADLINE)
        return self

    def _binds(self) -> list[str]:
        return [] if self.bind is None else ["-b", f"127.0.0.1:{self.port}", "-b", self.bind]

    def _started(self) -> bool:
        code = self.process.poll()
        if code is not None:
            pytest.fail(f"the server ended at start with exit code {code}\n{self.log_tail()}")
        return self._workers_up() >= self.workers and self.ready()

    def _workers_up(self) -> int:
        """How many workers of this start have said that they are up."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().count(b" is up: ")

    def get(self, path: str, timeout: float = DEADLINE) -> Reply:
        return http(self.url + path, timeout=timeout, ca=self.ca)

    def post(self, path: str, value: object, timeout: float = DEADLINE) -> Reply:
        return http(self.url + path, json.dumps(value).encode(), timeout=timeout,
                    headers={"Content-Type": "application/json"}, ca=self.ca)

    def metric(self, name: str) -> float:
        """The sum of a metric over the workers and labels of one answer of /metrics."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        found = [sample.value for family in families for sample in family.samples if sample.name == name]
        assert found, f"no metric {name}"
        return sum(found)

    def ready(self) -> bool:
        """Whether /readyz says 200."""
        try:
            return self.get(self.ready_at, timeout=5).status == 200
        except OSError:
            return False

    def worker_pids(self) -> list[int]:
        """The workers: children of the master that run its command line (an embedded Valkey does not)."""
        try:
            master = psutil.Process(self.process.pid)
            command = master.cmdline()
            return sorted(child.pid for child in master.children() if _runs(child, command))
        except psutil.NoSuchProcess:
            return []

    def worker_of(self, client_port: int) -> int | None:
        """The worker that holds the other end of a client's TCP connection."""
        for pid in self.worker_pids():
            for link in psutil.Process(pid).net_connections("tcp"):
                if link.raddr and link.raddr.port == client_port and link.status == psutil.CONN_ESTABLISHED:
                    return pid
        return None

    def companions(self) -> list[int]:
        """What else the master started: its private Valkey."""
        return sorted({child.pid for child in psutil.Process(self.process.pid).children()} - set(self.worker_pids()))

    def kill_worker(self, pid: int) -> None:
        """kill -9, and wait until it is gone (gunicorn starts another)."""
        assert pid in self.worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.worker_pids(), f"worker {pid} gone")

    def terminate(self, timeout: float = 60.0) -> int:
        """SIGTERM to the master; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def close(self) -> None:
        """Stop everything that was started, leave nothing behind."""
        if self._process is not None:
            self._stop(self._process)
        if self._emitter is not None:
            self._emitter.close()
        if self.valkey is not None:
            self.valkey.close()
        if self in Server.live:
            Server.live.remove(self)
        self.log.unlink(missing_ok=True)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        try:
            os.killpg(process.pid, signal.SIGKILL)  # the group we made: workers that outlived the master
        except ProcessLookupError:
            return

    def log_tail(self, lines: int = 120) -> str:
        """What the server logged since `mark`, its last lines."""
        with self.log.open("rb") as log:
            log.seek(self.marked)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def mark(self) -> None:
        """Let `log_tail` begin here."""
        self.marked = self.log.stat().st_size


def _runs(child: psutil.Process, command: list[str]) -> bool:
    try:
        return bool(child.status() != psutil.STATUS_ZOMBIE and child.cmdline() == command)
    except psutil.NoSuchProcess:
        return False


@pytest.hookimpl(wrapper=True)
def show_server_logs(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """`pytest_runtest_makereport`: a failed test shows what its servers logged meanwhile."""
    report = yield
    if call.when == "setup":
        for server in Server.live:
            server.mark()
    if report.failed:
        for server in Server.live:
            report.sections.append((f"log of {server.app} on {server.port}", server.log_tail()))
    return report
