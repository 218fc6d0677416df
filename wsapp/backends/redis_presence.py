"""Who watches rooms, in Redis: a hash per room, and what each worker says of itself under its lease."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from wsapp.backends.records import milliseconds
from wsapp.backends.redis_keys import Argument
from wsapp.backends.redis_scripts import (
    PRESENCE_MEMBERS,
    PRESENCE_SYNC,
    PRESENCE_UPDATE,
    PRESENCE_WATCHERS,
    Command,
)
from wsapp.backends.redis_wire import RedisPool
from wsapp.core.partitions import partition_of
from wsapp.core.ports import Watching

ROOM_TTL: Final = 3600.0  # seconds after which a room that nobody reads is forgotten; each reading renews it


class RedisPresence:
    """`Presence` over one script per operation.  `pools` are those of the partitions: what workers say is in the first
    one, who follows a room now is known where its channel is."""

    def __init__(self, pools: Sequence[RedisPool]) -> None:
        self._pools, self._pool, self._keys = pools, pools[0], pools[0].keys

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
        """As `Presence.watchers`; two round trips where the room is in another partition."""
        keys, there = self._keys, self._pools[partition_of(room, len(self._pools))]
        said = PRESENCE_WATCHERS.command([keys.workers], [room, keys.worker(""), keys.watching("")])
        verb = "SHARDNUMSUB" if there.keys.sharded else "NUMSUB"
        follow: Command = ("PUBSUB", verb, there.keys.room_channels + room)
        connections, (_, workers) = (self._pool.ask([said, follow]) if there is self._pool else
                                     self._pool.ask([said]) + there.ask([follow]))
        return Watching(max(connections, workers), workers)
