"""One worker's inside without its transport: the real core, the real memory backend, and peers that write down."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent

from wsapp.backends.memory import MemoryBackend
from wsapp.core.connections import ConnectionManager
from wsapp.core.events import Draft, Position, Profile
from wsapp.core.ledger import Ledger
from wsapp.core.ports import Broker, HistoryPage, HistoryQuery, Limits, Receipt
from wsapp.core.registry import Registry
from wsapp.core.session import Session
from wsapp.core.throttle import EventThrottler
from wsapp.emitter import Publisher
from wsapp.metrics import Metrics
from wsapp.runtime.critical import CriticalDelivery
from wsapp.runtime.delivery import Delivery
from wsapp.runtime.fanout import Fanout
from wsapp.runtime.lifecycle import Lifecycle
from wsapp.runtime.link import Links
from wsapp.runtime.outlet import Outlet
from wsapp.runtime.recovery import Recovery, recover
from wsapp.transport.frames import Frame
from wsapp.transport.outbox import RELIEVED

NUMBERS = itertools.count(1)


def eventually(check: Callable[[], object], within: float = 5.0) -> Any:
    """Let the other greenlets run until it holds."""
    deadline = time.monotonic() + within
    while not (found := check()):
        assert time.monotonic() < deadline, "never"
        gevent.sleep(0.001)
    return found


class RecordingPeer:
    """The transport's end of a connection: keeps what it is given."""

    direct = None

    def __init__(self, sid: str) -> None:
        self.sid = sid
        self.viewer: object = None
        self.frames: list[Frame] = []
        self.closed: list[tuple[int, str]] = []
        self.waiting = 0

    def push(self, frame: Frame) -> None:
        self.frames.append(frame)

    def backlog(self) -> int:
        return self.waiting

    def reads(self) -> bool:
        return self.waiting < RELIEVED

    def lag(self, size: int) -> bool:
        return False

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    @property
    def events(self) -> list[list[Any]]:
        """Each event as `[name, argument, ...]`."""
        return [json.loads(frame.payload[2:]) for frame in self.frames if frame.payload.startswith(b"42")]

    def of(self, name: str) -> list[Any]:
        """The first arguments of the events of one name."""
        return [event[1] for event in self.events if event[0] == name]


class Between:
    """A real broker; `during` runs once in the middle of a read: the page is made, its reader has not got it yet."""

    def __init__(self, inner: Broker) -> None:
        self.inner = inner
        self.during: list[Callable[[], object]] = []
        self.before: list[Callable[[], object]] = []
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.reads = 0

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        return self.inner.publish(drafts)

    def ping(self) -> float:
        """As of a backend, for the probe of the link: what fails reads fails it."""
        if self.before:
            self.before.pop(0)()
        return 0.0

    def read(self, queries: Sequence[HistoryQuery]) -> list[HistoryPage]:
        self.reads += 1
        if self.before:
            self.before.pop(0)()
        pages = self.inner.read(queries)
        if self.during:
            self.during.pop(0)()
        return pages

    def heads(self, rooms: Sequence[str]) -> dict[str, Position]:
        return self.inner.heads(rooms)

    def subscribe(self, rooms: Sequence[str]) -> None:
        self.subscribed += rooms
        self.inner.subscribe(rooms)

    def unsubscribe(self, rooms: Sequence[str]) -> None:
        self.unsubscribed += rooms
        self.inner.unsubscribe(rooms)


class World:
    """A worker.  `lost(room, seq)` decides which live records never arrive; `pass_time` moves every clock."""

    def __init__(self, rate: float = 0, limits: Limits | None = None, max_replay: int = 10_000,
                 boot: str = "w1", backend: MemoryBackend | None = None, ledger: Ledger | None = None,
                 partitions: int = 1, **throttle: Any) -> None:
        self._ahead = 0.0
        self.backend = backend or MemoryBackend(limits, clock=lambda: time.time() + self._ahead)
        self.broker = Between(self.backend.broker)
        self.metrics = Metrics()
        self.throttler = EventThrottler(rate, clock=self.clock, **throttle)
        self.registry = Registry()
        self.connections = ConnectionManager(self.backend.sessions, self.registry, self.throttler, boot=boot,
                                             clock=self.clock)
        self.critical = self.make_critical(ledger)
        self.fanout = Fanout(self.connections, self.metrics, self.critical, ledger, partitions=partitions,
                             clock=self.clock)
        self.links = Links(lambda _state: None)
        self.delivery = Delivery(self.registry, self.fanout, self.broker, self.metrics, self.links,
                                 max_replay=max_replay, clock=self.clock)
        self.lifecycle = Lifecycle(self.connections, self.delivery, self.links)
        self.publisher = Publisher(self.backend.broker)
        self.lost: Callable[[str, int], bool] = lambda _room, _seq: False
        self._running: list[gevent.Greenlet] = []
        self.run(Outlet(self.broker.publish, self.broker, self.links.parts[0],  # type: ignore[arg-type]
                        self.metrics, self.fanout.serve_unrecorded).run)
        self.backend.start(boot, self._record, self.delivery.on_gap, lambda _message: None, self._control)

    def make_critical(self, ledger: Ledger | None) -> CriticalDelivery | None:
        """The critical delivery of this world, where a test wants one."""
        return None

    def forget(self, *rooms: str) -> None:
        """Empty the logs of rooms: what was published must be read from the history."""
        for name in rooms:
            log = self.registry.rooms[name].log
            log.reset(log.head)

    def clock(self) -> float:
        return time.monotonic() + self._ahead

    def pass_time(self, seconds: float) -> None:
        self._ahead += seconds

    def run(self, *loops: Callable[[], None]) -> None:
        """Run loops as greenlets until `close`."""
        self._running += [gevent.spawn(loop) for loop in loops]

    def close(self) -> None:
        gevent.killall(self._running)
        self.backend.close()

    def _record(self, room: str, record: bytes) -> None:
        fields = record.partition(b"\n")[0].decode().split("\t")[7:]
        if not self.lost(room, int(fields[fields.index(room) + 1])):
            self.delivery.on_record(room, record)

    def _control(self, message: bytes) -> None:
        self.lifecycle.fenced(message.decode().partition(" ")[2])

    # -- clients

    def client(self, *rooms: str, user: str | None = None, profile: Profile = Profile.PLAIN) -> Session:
        """A connected session, live in the rooms."""
        session = self.connections.handle_connection(f"sid{next(NUMBERS)}", RecordingPeer("peer"), user,
                                                     profile=profile)
        if rooms:
            self.join(session, dict.fromkeys(rooms)).release()
        return session

    def join(self, session: Session, wanted: Mapping[str, Position | None]) -> Recovery:
        return recover(session, wanted, self.registry, self.delivery)

    # -- publishers

    def thought(self, text: object, agent: str = "a", **options: Any) -> Receipt:
        return self.publisher.broadcast_agent_thought({"agentId": agent, "thought": str(text)}, **options)

    def task(self, progress: int, task: str = "t", **options: Any) -> Receipt:
        return self.publisher.broadcast_task_update(
            {"taskId": task, "status": "in_progress", "progress": progress}, **options)


def peer(session: Session) -> RecordingPeer:
    """What a session's client got."""
    assert isinstance(session.peer, RecordingPeer)
    return session.peer


def thoughts(session: Session) -> list[str]:
    """The texts of the thoughts that came, batches opened."""
    found: list[str] = []
    for event in peer(session).events:
        if event[0] == "agent-thought":
            found += [one["thought"] for one in (event[1] if isinstance(event[1], list) else [event[1]])]
        elif event[0] == "batch":
            found += [data["thought"] for name, data, _meta in event[1] if name == "agent-thought"]
    return found


def numbers(*values: int) -> list[str]:
    """The thoughts `range(*values)`."""
    return [str(value) for value in range(*values)]
