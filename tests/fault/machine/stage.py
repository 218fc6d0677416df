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

from tests.fault.machine.clocks import Clocks
from tests.fault.machine.oracle import Account, Oracle, Truth, View
from tests.fault.machine.proxy import Proxy
from tests.fault.machine.publishers import ROOMS, Auditor, Inside, Outside
from tests.fault.machine.schedule import Fault
from tests.fault.machine.watchers import NodeWatchers, PythonWatcher
from tests.harness import Server
from tests.valkey import Valkey
from wsapp.backends import open_backend
from wsapp.cli.drain import Operator
from wsapp.core.ports import Limits
from wsapp.errors import BrokerUnavailable

DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")
REPLICATED: Final = ("--repl-diskless-sync-delay", "0")  # a new replica need not wait for others
PARTITIONS: Final = int(os.environ.get("WSAPP_PARTITIONS", "1"))  # the publishers of the machine read it as well
ENV: Final = {"MAX_EVENTS_PER_SEC": "2000", "WSAPP_DRAIN_TIMEOUT": "2", "WSAPP_HISTORY_SIZE": "20000",
              "WSAPP_HISTORY_BYTES": "20000000", "PING_INTERVAL": "4000",
              "PING_TIMEOUT": "4000"}
LOSING: Final = ("redis_killed", "redis_emptied", "redis_flushed", "redis_promoted")  # or begins new histories
SLOW_RATE: Final = 5.0  # frames a second of throttled watchers
WORKER_CLOCKS: Final = (-86_400, -300, -5, 5, 300, 86_400)  # seconds that a worker's clock jumps
REDIS_CLOCKS: Final = (-90, -30, -3, 3, 30, 90)  # and Redis's; more would be the end of what is kept by its clock
AUTHS: Final = ({}, {"wsapp": 1})


class Stage:
    """Everything that runs.  `begin` and `end` of a fault are called by the run, in its thread."""

    def __init__(self, seed: int, watchers: int, per_second: float, server: Server | None = None) -> None:
        self.seed, self.count, self._per_second = seed, watchers, per_second
        self.truth = Truth()
        self.ended: set[int] = set()
        self.faults: Counter[str] = Counter()
        self.in_step = 0  # replicas that followed until they were promoted
        self._chance = random.Random(f"{seed}/stage")
        self._stack = ExitStack()
        self._paused: dict[str, int] = {}
        self._twins: list[int] = []
        self._moved: list[str] = []

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
        self.clocks = enter(Clocks())
        self.valkey, self.replica = self._new_valkey(), self._new_valkey()
        self._stack.callback(self._close_valkeys)
        self._follow()
        self.redis_proxy = enter(Proxy(self._redis_port))
        self.steady_proxy = enter(Proxy(self._redis_port))  # for those who see to it that nothing is lost
        faked = self.clocks.env("server")
        self.server = enter(Server(
            2, self.redis_proxy.url, {**ENV, **faked, "WSAPP_PARTITIONS": str(PARTITIONS)},
            f"tests.apps.{'moved_clocks' if faked else 'host'}:app",
            config="tests/apps/moved_clocks_gunicorn.py" if faked else "gunicorn.conf.py"))
        self.client_proxy = enter(Proxy(self.server.port))
        self.nodes = enter(NodeWatchers())
        url = f"http://127.0.0.1:{self.client_proxy.port}"
        for number in range(self.count):
            throttled, auth = number % 8 == 7, dict(AUTHS[number % len(AUTHS)])
            name = f"npm {number} {auth}" + (" throttled" if throttled else "")
            self.nodes.open(View(name, self._rooms(), throttled), url, auth, SLOW_RATE if throttled else 0)
        self.pythons = [PythonWatcher(View(f"python {number}", self._rooms()), url) for number in range(2)]
        for python in self.pythons:
            self._stack.callback(python.close)
        self.wait(self._all_in, "every watcher is in its rooms", 60)
        tokens = itertools.count(1)
        self.auditor = enter(Auditor(self.steady_proxy.url, self.truth))
        self.outside = enter(Outside(self.steady_proxy.url, self.truth, tokens, self.seed, self._per_second * 0.8,
                                     max(1, int(self._per_second / 40))))
        self.inside = enter(Inside(self.server.url, self.truth, tokens, self.seed, max(5.0, self._per_second * 0.2)))

    def _new_valkey(self) -> Valkey:
        return Valkey(*DURABLE, *REPLICATED, env=self.clocks.env("redis")).start()

    def _close_valkeys(self) -> None:
        self.valkey.close()
        self.replica.close()

    def _redis_port(self) -> int:
        return self.valkey.port

    def _follow(self) -> None:
        """Let the replica follow whichever is in charge now."""
        self._direct("REPLICAOF", "127.0.0.1", str(self.valkey.port), to=self.replica)

    def _rooms(self) -> list[str]:
        return self._chance.sample(ROOMS, 4)

    @property
    def views(self) -> list[View]:
        """Of all watchers but the twins, which are in the families of theirs."""
        twins = {id(twin) for view in self.nodes.views.values() for twin in view.twins}
        return [*(view for view in self.nodes.views.values() if id(view) not in twins),
                *(python.view for python in self.pythons)]

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
        if fault.kind in LOSING:
            self.truth.losses += [time.monotonic(), time.monotonic() + fault.seconds]
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

    def _redis_promoted(self, _fault: Fault) -> None:
        """The replica stops following; what is written from now on will be lost with the one in charge."""
        self.in_step += b"master_link_status:up" in self._replication()
        self._direct("REPLICAOF", "NO", "ONE", to=self.replica)

    def _redis_promoted_over(self, _fault: Fault) -> None:
        """It takes over, another one follows it."""
        lost, self.valkey = self.valkey, self.replica
        lost.close()
        self.redis_proxy.cut()
        self.steady_proxy.cut()
        self.replica = self._new_valkey()
        self._follow()

    def _replication(self) -> bytes:
        """What the replica says of itself."""
        with redis.Redis.from_url(self.replica.url, socket_timeout=5, decode_responses=False) as client:
            client.response_callbacks.clear()
            return bytes(client.execute_command("INFO", "replication"))

    def _direct(self, *command: str, to: Valkey | None = None) -> None:
        with redis.Redis.from_url((to or self.valkey).url, socket_timeout=5) as client:
            client.execute_command(*command)

    def _worker_clock(self, fault: Fault) -> None:
        pid = self._worker(fault)
        if pid is not None:
            self._move_clock(str(pid), WORKER_CLOCKS[int(fault.pick * 1000) % len(WORKER_CLOCKS)])

    def _redis_clock(self, fault: Fault) -> None:
        self._move_clock("redis", REDIS_CLOCKS[int(fault.pick * len(REDIS_CLOCKS))])

    def _move_clock(self, name: str, seconds: int) -> None:
        self._moved.append(name)
        self.clocks.move(name, seconds)

    def _worker_clock_over(self, _fault: Fault) -> None:
        while self._moved:
            self.clocks.move(self._moved.pop(), 0)

    _redis_clock_over = _worker_clock_over

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

    def _worker_emptied(self, fault: Fault) -> None:
        """`wsapp drain`, when the answer comes; what it told and closed is judged as ever."""
        self._operate("begin", fault)

    def _worker_emptied_over(self, _fault: Fault) -> None:
        self._operate("undo")

    def _operate(self, do: str, fault: Fault | None = None) -> bool:
        """Whether every worker that was meant did it: the one of the fault, or all."""
        backend = open_backend(self.steady_proxy.url, Limits(), channel="stock", timeout=1.0, partitions=PARTITIONS)
        try:
            operator = Operator(backend)
            boots = operator.workers()
            chosen = boots if fault is None else boots[int(fault.pick * len(boots)):][:1]
            return not operator.tell(chosen, do, 0.3)[1]
        except BrokerUnavailable:  # another lane has broken Redis
            return False
        finally:
            backend.close()

    def _clients_cut(self, fault: Fault) -> None:
        self.client_proxy.cut(keep=int(fault.pick * self.count))

    def _clients_deaf(self, _fault: Fault) -> None:
        self.client_proxy.weather.deaf_down = True

    def _clients_deaf_over(self, _fault: Fault) -> None:
        self.client_proxy.cut()
        self.client_proxy.calm()

    def _clients_mute(self, _fault: Fault) -> None:
        self.client_proxy.weather.deaf_up = True

    _clients_mute_over = _clients_deaf_over

    def _clients_doubled(self, fault: Fault) -> None:
        self.client_proxy.double(keep=int(fault.pick * self.count))

    def _clients_doubled_over(self, _fault: Fault) -> None:
        self.client_proxy.undouble()

    def _client_twin(self, fault: Fault) -> None:
        self._twins.append(self.nodes.twin(self._client(fault), f"http://127.0.0.1:{self.client_proxy.port}"))

    def _client_twin_over(self, _fault: Fault) -> None:
        while self._twins:
            self.nodes.tell("close", self._twins.pop())

    def _client(self, fault: Fault) -> int:
        return int(fault.pick * self.count)

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
        self.wait(lambda: self._operate("undo"), "every worker takes clients", timeout)
        self.wait(lambda: all(self.server.ready() for _ in range(4)), "ready again", timeout)
        for number, view in list(self.nodes.views.items())[:self.count]:
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
