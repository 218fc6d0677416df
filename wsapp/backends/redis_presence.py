"""Who watches rooms, in Redis: a hash per room, and what each worker says of itself under its lease."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from wsapp.backends.records import milliseconds
from wsapp.backends.redis_keys import Argument
from wsapp.backends.redis_scripts import (
    PRESENCE_MEMBERS,
    PRESENCE_SYNC,
    PRESENCE_UPDATE,
    PRESENCE_WATCHERS,
)
from wsapp.backends.redis_wire import RedisPool
from wsapp.core.ports import Watching

ROOM_TTL: Final = 3600.0  # seconds after which a room that nobody reads is forgotten; each reading renews it


class RedisPresence:
    """`Presence` over one script per operation."""

    def __init__(self, pool: RedisPool) -> None:
        self._pool, self._keys = pool, pool.keys

    def ask(self, boot: str, room: str, ttl: float) -> None:
        """As `Presence.ask`."""
        name = self._keys.asks(boot)
        self._pool.ask([("SADD", name, room), ("PEXPIRE", name, milliseconds(ttl))])

    def unask(self, boot: str, room: str) -> None:
        """As `Presence.unask`."""
        self._pool.ask([("SREM", self._keys.asks(boot), room)])

    def sync(self, boot: str, counts: Mapping[str, int], ttl: float, *, anew: bool) -> frozenset[str] | None:
        """As `Presence.sync`."""
        keys = self._keys
        arguments: list[Argument] = [milliseconds(ttl), int(anew), keys.worker(""), keys.asks("")]
        for room, count in counts.items():
            arguments += (room, count)
        (reply,) = self._pool.ask([PRESENCE_SYNC.command(
            [keys.watching(boot), keys.asks(boot), keys.workers], arguments)])
        return frozenset(room.decode() for room in reply[1:]) if reply[0] == 1 else None

    def update(self, boot: str, room: str, changes: Mapping[str, int]) -> None:
        """As `Presence.update`."""
        keys = self._keys
        arguments: list[Argument] = [boot, room, milliseconds(ROOM_TTL), keys.asks(""), keys.control_channels]
        for user, count in changes.items():
            arguments += (user, count)
        self._pool.ask([PRESENCE_UPDATE.command([keys.presence(room), keys.workers], arguments)])

    def members(self, room: str) -> dict[str, int]:
        """As `Presence.members`."""
        (flat,) = self._pool.ask([PRESENCE_MEMBERS.command(
            [self._keys.presence(room)], [self._keys.worker(""), milliseconds(ROOM_TTL)])])
        found: Counter[str] = Counter()
        for user, count in zip(flat[::2], flat[1::2], strict=True):
            found[user.decode()] += count
        return dict(found)

    def watchers(self, room: str) -> Watching:
        """As `Presence.watchers`."""
        keys = self._keys
        ((connections, workers),) = self._pool.ask([PRESENCE_WATCHERS.command(
            [keys.workers], [room, keys.worker(""), keys.watching(""), keys.room_channels + room])])
        return Watching(max(connections, workers), workers)


class PartitionedPresence(RedisPresence):
    """What workers say is in partition 0; who follows a room now is seen where its channel is."""

    def __init__(self, pool: RedisPool, pool_of: Callable[[str], RedisPool]) -> None:
        super().__init__(pool)
        self._pool_of = pool_of

    def watchers(self, room: str) -> Watching:
        """As `Presence.watchers`, in two questions."""
        connections, there = super().watchers(room).connections, self._pool_of(room)
        verb = "SHARDNUMSUB" if there.keys.sharded else "NUMSUB"
        ((_, workers),) = there.ask([("PUBSUB", verb, there.keys.room_channels + room)])
        return Watching(max(connections, workers), workers)
