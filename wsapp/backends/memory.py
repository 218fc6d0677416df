"""The twins without a server: one process sees them, and what they hold ends with it.

They keep the promises of the Redis ones, down to the bounded trimming per publish, so that one contract test holds
both.  Time is injected.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from wsapp.backends.memory_api_keys import MemoryApiKeys
from wsapp.backends.memory_critical import MemoryCritical
from wsapp.backends.memory_presence import MemoryPresence
from wsapp.backends.records import base36, check_draft, revoked_message, split_owner, unique
from wsapp.core.api_keys import ApiKeys
from wsapp.core.events import Draft, Placed, Position, parse_record, publish_draft, strict_dumps, strict_loads
from wsapp.core.ports import (
    ANONYMOUS,
    Backend,
    Broker,
    Bus,
    Cluster,
    CriticalStore,
    HistoryPage,
    HistoryQuery,
    Limits,
    Presence,
    Receipt,
    Revocations,
    SavedSession,
    SessionStore,
)

log = logging.getLogger("wsapp.backends.memory")

DROPPED: Final = 8  # old entries that may leave a room per publish, as in publish.lua
Clock = Callable[[], float]


class Mailbox:
    """Delivers in order and never two at once: whoever delivers takes along what others put in meanwhile."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._busy = False

    def post(self, deliveries: Sequence[Callable[[], None]]) -> None:
        """Queue them.  Call it under the lock that orders the publications."""
        self._waiting.extend(deliveries)

    def drain(self) -> None:
        """Deliver what is queued, unless somebody is at it already."""
        while True:
            with self._lock:
                if self._busy or not self._waiting:
                    return
                self._busy = True
            try:
                while self._waiting:
                    self._deliver(self._waiting.popleft())
            finally:
                self._busy = False

    def _deliver(self, delivery: Callable[[], None]) -> None:
        try:
            delivery()
        except Exception:
            log.exception("a callback of the memory backend failed")


class _Entry(NamedTuple):
    seq: int
    at: float
    record: bytes


class _Room:
    """One room's history; `epoch` is made with it."""

    __slots__ = ("at", "bytes", "entries", "epoch", "seq")

    def __init__(self, epoch: str) -> None:
        self.epoch, self.seq, self.bytes, self.at = epoch, 0, 0, 0.0
        self.entries: deque[_Entry] = deque()

    @property
    def first(self) -> int:
        return self.entries[0].seq if self.entries else self.seq + 1

    def age_out(self, limits: Limits, now: float) -> None:
        """A quiet room's history ends as a whole, as a stream's time to live does."""
        if now - self.at >= limits.history_age:
            self.entries.clear()
            self.bytes = 0

    def add(self, record: bytes, limits: Limits, now: float) -> None:
        self.at = now
        self.entries.append(_Entry(self.seq, now, record))
        self.bytes += len(record)
        for _ in range(DROPPED):
            if not self.entries or not self._over(limits, now):
                return
            self.bytes -= len(self.entries.popleft().record)

    def _over(self, limits: Limits, now: float) -> bool:
        return (len(self.entries) > limits.history_size or self.bytes > limits.history_bytes
                or now - self.entries[0].at >= limits.history_age)

    def page(self, query: HistoryQuery) -> HistoryPage:
        since, limit = query.since, max(0, query.limit)
        if query.backwards:
            chosen = (entry for entry in reversed(self.entries) if since is None or entry.seq < since)
        else:
            chosen = (entry for entry in self.entries if since is None or entry.seq > since)
        publications = tuple(parse_record(entry.record) for entry, _ in zip(chosen, range(limit), strict=False))
        return HistoryPage(query.room, Position(self.epoch, self.seq), self.first, publications)


class MemoryBroker:
    """`Broker` in this process."""

    def __init__(self, limits: Limits, clock: Clock, mailbox: Mailbox) -> None:
        self._limits, self._clock, self._mailbox = limits, clock, mailbox
        self._lock = threading.Lock()
        self._generation, self._epochs = secrets.token_hex(4), 0
        self._rooms: OrderedDict[str, _Room] = OrderedDict()  # by last publish
        self._results: OrderedDict[str, tuple[float, Receipt]] = OrderedDict()
        self._wanted: set[str] = set()
        self.on_record: Callable[[str, bytes], None] | None = None

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """As `Broker.publish`.  Raises ValueError for a draft that cannot be a record."""
        for draft in drafts:
            check_draft(draft, draft.head())
        with self._lock:
            receipts = [self._publish(draft) for draft in drafts]
        self._mailbox.drain()
        return receipts

    def _publish(self, draft: Draft) -> Receipt:
        now = self._clock()
        self._expire(now)
        if draft.key and draft.key in self._results:
            return replace(self._results[draft.key][1], duplicate=True)
        recorded = self._recorded(draft) if draft.retry else None
        if recorded is not None:
            return recorded
        places = tuple(self._place(room, now) for room in unique(draft.rooms))
        publication = publish_draft(draft, places)
        record = publication.record()
        for place in places:
            self._rooms[place.room].add(record, self._limits, now)
        receipt = Receipt(publication.id, places)
        if draft.key:
            self._results[draft.key] = (now, receipt)
        self._mailbox.post([self._delivery(place.room, record) for place in places if place.room in self._wanted])
        return receipt

    def _recorded(self, draft: Draft) -> Receipt | None:
        """The receipt of an earlier attempt, when a history still has the event."""
        begin = draft.id.encode() + b"\t"
        for room in (self._rooms[name] for name in draft.rooms if name in self._rooms):
            for entry in reversed(room.entries):
                if entry.record.startswith(begin):
                    return Receipt(draft.id, parse_record(entry.record).places, duplicate=True)
        return None

    def _place(self, name: str, now: float) -> Placed:
        room = self._rooms.get(name)
        if room is None:
            self._epochs += 1
            room = self._rooms[name] = _Room(f"{self._generation}-{base36(self._epochs)}")
        self._rooms.move_to_end(name)
        room.age_out(self._limits, now)
        room.seq += 1
        return Placed(name, room.seq, room.epoch)

    def _delivery(self, room: str, record: bytes) -> Callable[[], None]:
        def deliver() -> None:
            if self.on_record is not None and room in self._wanted:
                self.on_record(room, record)
        return deliver

    def _expire(self, now: float) -> None:
        while self._results and now - next(iter(self._results.values()))[0] >= self._limits.result_ttl:
            self._results.popitem(last=False)
        while self._rooms and now - next(iter(self._rooms.values())).at >= self._limits.meta_ttl:
            self._rooms.popitem(last=False)

    def read(self, queries: Sequence[HistoryQuery]) -> list[HistoryPage]:
        """As `Broker.read`."""
        with self._lock:
            return [self._read(query) for query in queries]

    def _read(self, query: HistoryQuery) -> HistoryPage:
        now = self._clock()
        self._expire(now)
        room = self._rooms.get(query.room)
        if room is None:
            return HistoryPage(query.room, Position("", 0), 1, ())
        room.age_out(self._limits, now)
        return room.page(query)

    def heads(self, rooms: Sequence[str]) -> dict[str, Position]:
        """As `Broker.heads`."""
        with self._lock:
            return {name: self._read(HistoryQuery(name, limit=0)).head for name in rooms}

    @property
    def wanted(self) -> set[str]:
        """The rooms whose live records are asked for."""
        return self._wanted

    def subscribe(self, rooms: Sequence[str]) -> None:
        """As `Broker.subscribe`."""
        with self._lock:
            self._wanted.update(rooms)

    def unsubscribe(self, rooms: Sequence[str]) -> None:
        """As `Broker.unsubscribe`."""
        with self._lock:
            self._wanted.difference_update(rooms)


class MemorySessions:
    """`SessionStore` in this process."""

    def __init__(self, limits: Limits, clock: Clock, send: Callable[[str, bytes], None]) -> None:
        self._ttl, self._clock, self._send = limits.session_ttl, clock, send
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, tuple[float, SavedSession]] = OrderedDict()  # by last write

    def save(self, sessions: Sequence[SavedSession]) -> list[bool]:
        """As `SessionStore.save`."""
        for session in sessions:
            split_owner(session.owner)
        frozen = [replace(session, positions=dict(session.positions),
                          metadata=strict_loads(strict_dumps(dict(session.metadata)))) for session in sessions]
        with self._lock:
            return [self._save(session) for session in frozen]

    def _save(self, session: SavedSession) -> bool:
        stored = self._get(session.session_id)
        if stored is not None and stored.owner != session.owner:
            return False
        self._put(session)
        return True

    def _get(self, session_id: str) -> SavedSession | None:
        now = self._clock()
        while self._sessions and now - next(iter(self._sessions.values()))[0] >= self._ttl:
            self._sessions.popitem(last=False)
        return self._sessions[session_id][1] if session_id in self._sessions else None

    def _put(self, session: SavedSession) -> None:
        self._sessions[session.session_id] = (self._clock(), session)
        self._sessions.move_to_end(session.session_id)

    def take(self, session_id: str, owner: str, user_id: str | None = None) -> SavedSession | None:
        """As `SessionStore.take`; the time to live begins anew."""
        boot, _ = split_owner(owner)
        with self._lock:
            stored = self._get(session_id)
            if stored is None:
                return None
            if user_id is not None and not stored.user_id.startswith(ANONYMOUS) and stored.user_id != user_id:
                raise PermissionError("the session is another user's")
            self._put(replace(stored, owner=owner))
        previous, sid = split_owner(stored.owner)
        if previous != boot:
            self._send(previous, f"fenced {sid}".encode())
        return stored

    def drop(self, session_id: str, owner: str) -> bool:
        """As `SessionStore.drop`."""
        with self._lock:
            stored = self._get(session_id)
            if stored is None or stored.owner != owner:
                return False
            del self._sessions[session_id]
            return True


class MemoryRevocations:
    """`Revocations` in this process."""

    def __init__(self, clock: Clock, tell: Callable[[bytes], None]) -> None:
        self._clock, self._tell = clock, tell
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[float, float]] = {}  # at, until

    def revoke(self, entry: str, at: float, until: float) -> None:
        """As `Revocations.revoke`."""
        now = self._clock()
        if until <= now:
            return
        with self._lock:
            self._entries = {name: kept for name, kept in self._entries.items() if kept[1] > now}
            before = self._entries.get(entry, (at, until))
            self._entries[entry] = (max(at, before[0]), max(until, before[1]))
        self._tell(revoked_message(entry, at, until))

    def revoked(self, entries: Sequence[str]) -> dict[str, float]:
        """As `Revocations.revoked`."""
        now = self._clock()
        with self._lock:
            found = {entry: self._entries[entry] for entry in entries if entry in self._entries}
        return {entry: at for entry, (at, until) in found.items() if until > now}


@dataclass(frozen=True, slots=True)
class _Lease:
    until: float
    facts: str


class MemoryCluster:
    """`Cluster` of one process; a control message reaches only the boot id that was started here."""

    def __init__(self, clock: Clock, mailbox: Mailbox) -> None:
        self._clock, self._mailbox = clock, mailbox
        self._leases: dict[str, _Lease] = {}
        self.boot = self._secret = ""
        self.on_control: Callable[[bytes], None] | None = None

    def beat(self, boot: str, facts: Mapping[str, object], ttl: float) -> None:
        """As `Cluster.beat`."""
        self._leases[boot] = _Lease(self._clock() + ttl, strict_dumps(dict(facts)))

    def leave(self, boot: str) -> None:
        """As `Cluster.leave`."""
        self._leases.pop(boot, None)

    def workers(self) -> dict[str, dict[str, object]]:
        """As `Cluster.workers`."""
        now = self._clock()
        for boot, lease in list(self._leases.items()):
            if lease.until <= now:
                self._leases.pop(boot, None)
        return {boot: strict_loads(lease.facts) for boot, lease in sorted(self._leases.items())}

    def secret(self, offered: str, ttl: float) -> str:
        """As `Cluster.secret`: it lasts as long as this process, the only one that has it."""
        self._secret = self._secret or offered
        return self._secret

    def send(self, boot: str, message: bytes) -> None:
        """As `Cluster.send`."""
        on_control = self.on_control
        if on_control is not None and boot == self.boot:
            self._mailbox.post([lambda: on_control(message)])
            self._mailbox.drain()


class MemoryBus:
    """`Bus` with one listener."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.on_bus: Callable[[bytes], None] | None = None

    def publish(self, message: bytes) -> None:
        """As `Bus.publish`."""
        on_bus = self.on_bus
        if on_bus is not None:
            self._mailbox.post([lambda: on_bus(message)])
            self._mailbox.drain()


class MemoryBackend:
    """`Backend` in this process.  Callbacks run in the thread that publishes (or in one that publishes at the same
    time), in order; `on_gap` is never called, for nothing can be lost."""

    shared = False
    parts: Sequence[Backend] = ()

    def __init__(self, limits: Limits | None = None, *, clock: Clock = time.time) -> None:
        limits = limits or Limits()
        mailbox = Mailbox()
        self._broker, self._cluster = MemoryBroker(limits, clock, mailbox), MemoryCluster(clock, mailbox)
        self._bus = MemoryBus(mailbox)
        self.broker: Broker = self._broker
        self.cluster: Cluster = self._cluster
        self.critical: CriticalStore = MemoryCritical(limits, clock)
        self.sessions: SessionStore = MemorySessions(limits, clock, self._cluster.send)
        self.bus: Bus = self._bus
        self.revocations: Revocations = MemoryRevocations(
            clock, lambda message: self._cluster.send(self._cluster.boot, message))
        self.api_keys: ApiKeys = MemoryApiKeys()
        self.presence: Presence = MemoryPresence(self._cluster, lambda: self._broker.wanted, clock)

    def start(self, boot: str, on_record: Callable[[str, bytes], None], on_gap: Callable[[], None],
              on_bus: Callable[[bytes], None], on_control: Callable[[bytes], None]) -> None:
        """As `Backend.start`."""
        self._broker.on_record, self._bus.on_bus = on_record, on_bus
        self._cluster.boot, self._cluster.on_control = boot, on_control

    def hasty(self, timeout: float) -> Broker:
        """As `Backend.hasty`: memory never makes anybody wait."""
        return self.broker

    @property
    def deaf(self) -> str | None:
        """As `Backend.deaf`: never."""
        return None

    def reconnect(self) -> None:
        """As `Backend.reconnect`: there is no connection."""

    def ping(self) -> float:
        """As `Backend.ping`: always there."""
        return 0.0

    def close(self) -> None:
        """Stop delivering.  Idempotent."""
        self._broker.on_record = self._bus.on_bus = self._cluster.on_control = None
