"""Histories and live channels of rooms in Redis or Valkey, and the backend that holds it all together."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from wsapp.backends.records import check_draft, milliseconds, read_receipt, unique
from wsapp.backends.redis_api_keys import RedisApiKeys
from wsapp.backends.redis_cluster import RedisBus, RedisCluster
from wsapp.backends.redis_critical import RedisCritical
from wsapp.backends.redis_keys import Argument, PublishKeys
from wsapp.backends.redis_line import RedisLine, open_lines
from wsapp.backends.redis_live import RedisLive, read_by_thread
from wsapp.backends.redis_presence import RedisPresence
from wsapp.backends.redis_revocations import RedisRevocations
from wsapp.backends.redis_scripts import HISTORY, Command, publish_in
from wsapp.backends.redis_sessions import RedisSessions
from wsapp.backends.redis_wire import RedisPool
from wsapp.backends.window import Interrupted, Window
from wsapp.core.api_keys import ApiKeys
from wsapp.core.events import Draft, Position, parse_record
from wsapp.core.ids import made_ms
from wsapp.core.ports import (
    Backend,
    Broker,
    Bus,
    Cluster,
    CriticalStore,
    HistoryPage,
    HistoryQuery,
    Limits,
    Presence,
    Reading,
    Receipt,
    Revocations,
    SessionStore,
)

PROBE_TTL = 60_000  # ms


class RedisBroker:
    """`Broker` over Lua scripts: one EVALSHA per draft or query, all of a call in one round trip."""

    def __init__(self, pool: RedisPool, live: RedisLive, limits: Limits) -> None:
        self._pool, self._live, self._keys = pool, live, pool.keys
        self._publish_keys = PublishKeys(pool.keys)
        self._publish_script = publish_in(self._keys.partitions, self._keys.sharded)
        self._nonce = secrets.token_hex(4)
        self._window: Window[Command, Any] = Window(pool.ask, pool.longest)
        self._bounds: list[Argument] = [
            limits.history_size, limits.history_bytes, milliseconds(limits.history_age), milliseconds(limits.meta_ttl)]
        self._visible: list[Argument] = [limits.history_size, milliseconds(limits.history_age)]
        self._result_ttl = milliseconds(limits.result_ttl)

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """As `Broker.publish`.  Raises BrokerUnavailable, and ValueError for a draft that cannot be a record."""
        if not drafts:
            return []
        commands = [self._publish(draft) for draft in drafts]
        try:
            replies = self._window.ask(commands)
        except Interrupted:  # that of another thread: these may be recorded
            replies = self._window.ask([self._publish(replace(draft, retry=True)) for draft in drafts])
        return [read_receipt(placed.decode(), duplicate == 1) for duplicate, placed in replies]

    def _publish(self, draft: Draft) -> Command:
        head = draft.head()
        check_draft(draft, head)
        tried = max(0, round(time.time() * 1000 - made_ms(draft.id))) if draft.retry else ""
        return self._publish_script.command(
            self._publish_keys.of(draft), [head, draft.body, self._nonce, *self._bounds, self._result_ttl,
                                           self._keys.room_channels, draft.id, tried, *unique(draft.rooms)])

    def read(self, queries: Sequence[HistoryQuery]) -> list[HistoryPage]:
        """As `Broker.read`.  The timeout is that of the next bytes: a long answer may take longer as a whole."""
        if not queries:
            return []
        replies = self._pool.ask([self._read(query) for query in queries], patient=True)
        return [_page(query.room, reply) for query, reply in zip(queries, replies, strict=True)]

    def _read(self, query: HistoryQuery) -> Command:
        keys = self._keys
        since = "" if query.since is None else query.since
        return HISTORY.command([keys.stream(query.room), keys.head(query.room), keys.generation],
                               [since, max(0, query.limit), int(query.backwards), *self._visible])

    def heads(self, rooms: Sequence[str]) -> dict[str, Position]:
        """As `Broker.heads`.  The timeout is that of the next bytes, as for `read`."""
        if not rooms:
            return {}
        generation: Command = ("HGET", self._keys.generation, "token")
        heads: list[Command] = [("GET", self._keys.head(room)) for room in rooms]
        token, *found = self._pool.ask([generation, *heads], patient=True)
        return {room: _head(token, head) for room, head in zip(rooms, found, strict=True)}

    def subscribe(self, rooms: Sequence[str]) -> None:
        """As `Broker.subscribe`.  On BrokerUnavailable the rooms stay wanted: they are subscribed as soon as the
        live connection is back, and then `on_gap` is called."""
        self._live.subscribe(rooms)

    def unsubscribe(self, rooms: Sequence[str]) -> None:
        """As `Broker.unsubscribe`."""
        self._live.unsubscribe(rooms)


def _head(token: bytes | None, stored: bytes | None) -> Position:
    """A room's head; the beginning of nothing when its epoch is of another server's life."""
    epoch, generation, seq, *others = (stored or b"").split(b" ") if stored else (b"", b"", b"")
    if token is None or generation != token or len(others) != 5 or not seq.isdigit():
        return Position("", 0)
    return Position(epoch.decode(), int(seq))


def _page(room: str, reply: list[Any]) -> HistoryPage:
    epoch, seq, first, *records = reply
    return HistoryPage(room, Position(epoch.decode(), seq), first, tuple(map(parse_record, records)))


class RedisBackend:
    """`Backend` over one Redis or Valkey: a pool for questions and one live connection.  With a `line` it is that of
    one partition, and the URL does not count."""

    shared = True
    parts: Sequence[Backend] = ()

    def __init__(self, url: str, limits: Limits, *, channel: str, prefix: str = "wsapp:", timeout: float = 0.25,
                 line: RedisLine | None = None, reading: Reading = read_by_thread) -> None:
        self._line = line or open_lines(url, prefix)[0]
        self._pool = self._line.pool(timeout)
        self._limits = limits
        self._hasty: list[RedisPool] = []
        self._live = self._line.live(channel, timeout, reading)
        self._live.lost, self._pool.moved, self._pool.opened = self._forget, self._moved, self._live.hurry
        self.broker: Broker = RedisBroker(self._pool, self._live, limits)
        self.sessions: SessionStore = RedisSessions(self._pool, limits)
        self.critical: CriticalStore = RedisCritical(self._pool, limits)
        self.cluster: Cluster = RedisCluster(self._pool)
        self.revocations: Revocations = RedisRevocations(self._pool)
        self.bus: Bus = RedisBus(self._pool)
        self.api_keys: ApiKeys = RedisApiKeys(self._pool)
        self.presence: Presence = RedisPresence([self._pool])

    def start(self, boot: str, on_record: Callable[[str, bytes], None], on_gap: Callable[[], None],
              on_bus: Callable[[bytes], None], on_control: Callable[[bytes], None]) -> None:
        """As `Backend.start`.  Call it after fork."""
        for pool in (self._pool, *self._hasty):
            pool.alone = False  # the live connection watches for all
        self._live.start(boot, on_record, on_gap, on_bus, on_control)

    def hasty(self, timeout: float) -> Broker:
        """As `Backend.hasty`: connections of its own."""
        pool = self._line.pool(timeout, self._pool.timeout)
        pool.moved, pool.opened = self._moved, self._live.hurry
        self._hasty.append(pool)
        return RedisBroker(pool, self._live, self._limits)

    def reconnect(self) -> None:
        """As `Backend.reconnect`."""
        self._live.reconnect()

    @property
    def deaf(self) -> str | None:
        """As `Backend.deaf`."""
        return self._live.deaf

    @property
    def pool(self) -> RedisPool:
        """The connections for questions."""
        return self._pool

    def _forget(self) -> None:
        """The next questions open new connections: the old ones may lead to a server that is not the primary."""
        for pool in (self._pool, *self._hasty):
            pool.forget()

    def _moved(self) -> None:
        """A server said that it is a replica: leave it with all connections."""
        self._forget()
        self._live.reconnect()

    def ping(self) -> float:
        """As `Backend.ping`.  It writes: a replica, or a server without memory or disk, answers PING and is away."""
        begun = time.monotonic()
        self._pool.ask([("SET", self._pool.keys.probe, "", "PX", PROBE_TTL)])
        return time.monotonic() - begun

    def close(self) -> None:
        """As `Backend.close`."""
        self._live.close()
        for pool in (self._pool, *self._hasty):
            pool.close()
