"""The stage: Redis behind a proxy, two workers behind another, watchers, publishers, and hands that break things."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import redis

from tests.fault.machine.oracle import Account, Oracle, Truth, View
from tests.fault.machine.proxy import Proxy
from tests.fault.machine.publishers import ROOMS, Auditor, Inside, Outside
from tests.fault.machine.schedule import Fault
from tests.fault.machine.watchers import NodeWatchers, PythonWatcher
from tests.harness import Server
from tests.valkey import Valkey

DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")
ENV: Final = {"MAX_EVENTS_PER_SEC": "2000", "WSAPP_DRAIN_TIMEOUT": "2", "WSAPP_HISTORY_SIZE": "20000",
              "WSAPP_HISTORY_BYTES": "20000000", "PING_INTERVAL": "4000",
              "PING_TIMEOUT": "4000"}
SLOW_RATE: Final = 5.0  # frames a second of throttled watchers
AUTHS: Final = ({}, {"wsapp": 1}, {"recovery": "offset"})


class Stage:
    """Everything that runs.  `begin` and `end` of a fault are called by the run, in its thread."""

    def __init__(self, seed: int, watchers: int, per_second: float, server: Server | None = None) -> None:
        self.seed, self._count, self._per_second = seed, watchers, per_second
        self.truth = Truth()
        self.ended: set[int] = set()
        self.faults: Counter[str] = Counter()
        self._chance = random.Random(f"{seed}/stage")
        self._stack = ExitStack()
        self._paused: dict[str, int] = {}

    def __enter__(self) -> Stage:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        enter = self._stack.enter_context
        self.valkey = enter(Valkey(*DURABLE))
        self.redis_proxy = enter(Proxy(self.valkey.port))
        self.server = enter(Server(2, self.redis_proxy.url, ENV, "tests.apps.host:app"))
        self.client_proxy = enter(Proxy(self.server.port))
        self.nodes = enter(NodeWatchers())
        url = f"http://127.0.0.1:{self.client_proxy.port}"
        for number in range(self._count):
            throttled, auth = number % 8 == 7, dict(AUTHS[number % 3])
            name = f"npm {number} {auth}" + (" throttled" if throttled else "")
            self.nodes.open(View(name, self._rooms(), throttled), url, auth, SLOW_RATE if throttled else 0)
        self.pythons = [PythonWatcher(View(f"python {number}", self._rooms()), url) for number in range(2)]
        for python in self.pythons:
            self._stack.callback(python.close)
        self.wait(self._all_in, "every watcher is in its rooms", 60)
        tokens = itertools.count(1)
        self.auditor = enter(Auditor(self.valkey.url, self.truth))
        self.outside = enter(Outside(self.valkey.url, self.truth, tokens, self.seed, self._per_second * 0.8,
                                     max(1, int(self._per_second / 40))))
        self.inside = enter(Inside(self.server.url, self.truth, tokens, self.seed, max(5.0, self._per_second * 0.2)))

    def _rooms(self) -> list[str]:
        return self._chance.sample(ROOMS, 4)

    @property
    def views(self) -> list[View]:
        return [*self.nodes.views.values(), *(python.view for python in self.pythons)]

    @property
    def deliveries(self) -> int:
        return sum(len(view.ids) for view in self.views)

    def _all_in(self) -> bool:
        return all({note.room for note in view.notes if note.kind == "j"} >= set(view.rooms) for view in self.views)

    def wait(self, condition: Callable[[], object], what: str, timeout: float = 30.0) -> bool:
        """Whether it came true in time; says so when not."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                print(f"waited {timeout:g} s in vain: {what}")
                return False
            time.sleep(0.05)
        return True

    # -- faults

    def begin(self, fault: Fault) -> None:
        """Break something."""
        self.faults[fault.kind] += 1
        getattr(self, "_" + fault.kind)(fault)

    def end(self, fault: Fault) -> None:
        """Mend it, where it does not mend itself."""
        mend = getattr(self, f"_{fault.kind}_over", None)
        if mend is not None:
            mend(fault)

    def _redis_killed(self, _fault: Fault) -> None:
        self.valkey.kill()

    def _redis_killed_over(self, _fault: Fault) -> None:
        self.valkey.start(self.valkey.port)

    def _redis_emptied(self, _fault: Fault) -> None:
        self._redis_flushed(_fault)
        self.valkey.kill()

    _redis_emptied_over = _redis_killed_over

    def _redis_flushed(self, _fault: Fault) -> None:
        self._direct("FLUSHALL")

    def _redis_hung(self, _fault: Fault) -> None:
        self.valkey.stop_process()

    def _redis_hung_over(self, _fault: Fault) -> None:
        self.valkey.cont()

    def _redis_cut(self, _fault: Fault) -> None:
        self.redis_proxy.cut()

    def _redis_deaf(self, _fault: Fault) -> None:
        self.redis_proxy.weather.deaf_down = True

    def _redis_deaf_over(self, _fault: Fault) -> None:
        self.redis_proxy.cut()  # no stream goes on after a gap
        self.redis_proxy.calm()

    def _redis_slow(self, _fault: Fault) -> None:
        self.redis_proxy.weather.delay = 0.02

    def _redis_slow_over(self, _fault: Fault) -> None:
        self.redis_proxy.calm()

    def _redis_refusing(self, _fault: Fault) -> None:
        self.redis_proxy.weather.refusing = True
        self.redis_proxy.cut()

    _redis_refusing_over = _redis_slow_over

    def _pubsub_killed(self, _fault: Fault) -> None:
        self._direct("CLIENT", "KILL", "TYPE", "pubsub")

    def _pubsub_deaf(self, _fault: Fault) -> None:
        self.redis_proxy.condemn()

    def _scripts_flushed(self, _fault: Fault) -> None:
        self._direct("SCRIPT", "FLUSH")

    def _direct(self, *command: str) -> None:
        with redis.Redis.from_url(self.valkey.url, socket_timeout=5) as client:
            client.execute_command(*command)

    def _worker(self, fault: Fault) -> int | None:
        pids = self.server.worker_pids()
        return pids[int(fault.pick * len(pids))] if pids else None

    def _signal(self, fault: Fault, number: int) -> None:
        pid = self._worker(fault)
        if pid is not None:
            self.ended.add(pid)
            os.kill(pid, number)

    def _worker_killed(self, fault: Fault) -> None:
        self._signal(fault, signal.SIGKILL)

    def _worker_drained(self, fault: Fault) -> None:
        self._signal(fault, signal.SIGTERM)

    def _worker_hung(self, fault: Fault) -> None:
        pid = self._worker(fault)
        if pid is not None:
            self._paused["worker"] = pid
            os.kill(pid, signal.SIGSTOP)

    def _worker_hung_over(self, _fault: Fault) -> None:
        pid = self._paused.pop("worker", None)
        if pid in self.server.worker_pids():
            os.kill(pid, signal.SIGCONT)

    def _reload(self, _fault: Fault) -> None:
        self.ended.update(self.server.worker_pids())
        self.server.process.send_signal(signal.SIGHUP)

    def _clients_cut(self, fault: Fault) -> None:
        self.client_proxy.cut(keep=int(fault.pick * self._count))

    def _clients_deaf(self, _fault: Fault) -> None:
        self.client_proxy.weather.deaf_down = True

    def _clients_deaf_over(self, _fault: Fault) -> None:
        self.client_proxy.cut()
        self.client_proxy.calm()

    def _clients_mute(self, _fault: Fault) -> None:
        self.client_proxy.weather.deaf_up = True

    _clients_mute_over = _clients_deaf_over

    def _client(self, fault: Fault) -> int:
        return int(fault.pick * self._count)

    def _client_vanished(self, fault: Fault) -> None:
        self.nodes.tell("cut", self._client(fault))

    def _client_slow(self, fault: Fault) -> None:
        self.nodes.tell("pause", self._client(fault))

    def _client_slow_over(self, fault: Fault) -> None:
        self.nodes.tell("resume", self._client(fault))

    def _client_away(self, fault: Fault) -> None:
        self.nodes.tell("leave", self._client(fault))

    def _client_away_over(self, fault: Fault) -> None:
        self.nodes.tell("connect", self._client(fault))

    # -- the end

    def settle(self, timeout: float = 60.0) -> None:
        """All faults are over: let everybody catch up, then nothing is published any more."""
        self.outside.stopping.set()
        self.inside.stopping.set()
        self.wait(lambda: all(self.server.ready() for _ in range(4)), "ready again", timeout)
        for number, view in self.nodes.views.items():
            if view.throttled:
                self.nodes.tell("rate", number, rate=2000)
        self.wait(self.auditor.read, "the auditor has read everything", timeout)
        before, deadline = -1, time.monotonic() + timeout
        while time.monotonic() < deadline:  # until nothing has come for three seconds
            time.sleep(3.0)
            if self.deliveries == before:
                break
            before = self.deliveries
        self.wait(self.auditor.read, "the auditor has read everything again", timeout)
        self.auditor.stopping.set()

    def account(self) -> Account:
        """The oracle's word on everybody."""
        oracle = Oracle(self.truth, self.ended)
        total = oracle.publishers()
        for view in self.views:
            total += oracle.judge(view)
        return total
