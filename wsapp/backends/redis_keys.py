"""The names of all keys and channels in Redis.  Nothing else in wsapp builds one.

Every key of a partition carries the same hash tag, so that its scripts also run in a cluster's slot.  Pub/sub
channels do not belong to a database, so their names carry its number: two apps on two databases of one server
do not hear each other.  The stock Flask-SocketIO channel is not here: it is listened to under its own name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from wsapp.core.events import Draft

LONGEST_KEY: Final = 64  # idempotency keys beyond it are hashed
MOST_ROOMS: Final = 10_000  # whose keys are kept ready

Argument = str | bytes | int


def slot_of(tag: str) -> int:
    """The hash slot of a tag."""
    return int(key_slot(tag.encode()))


def partition_tags(count: int) -> list[str]:
    """The hash tags of partitions.  The first is "0" however many there are; the others are chosen so that the slots
    of the partitions are spread evenly, one in each `count`-th of the slots: over nodes as they are usually cut."""
    first = slot_of("0") * count // REDIS_CLUSTER_HASH_SLOTS
    tags = ["0"]
    for number in range(1, count):
        wanted, tag, tried = (first + number) % count, str(number), 0
        while slot_of(tag) * count // REDIS_CLUSTER_HASH_SLOTS != wanted:
            tried += 1
            tag = f"{number}.{tried}"
        tags.append(tag)
    return tags


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """Names under `prefix` for one partition in one database: the one tagged `partition`, the `number`-th of
    `partitions`.  `sharded`: its rooms have sharded channels (Redis Cluster: SPUBLISH)."""

    prefix: str = "wsapp:"
    partition: str = "0"
    database: int = 0
    number: int = 0
    partitions: int = 1
    sharded: bool = False

    @property
    def slot(self) -> int:
        """The hash slot of every key and channel of the partition (Redis Cluster specification, "Hash tags")."""
        return slot_of(self.partition)

    @property
    def base(self) -> str:
        """What every key begins with."""
        return f"{self.prefix}{{{self.partition}}}:"

    @property
    def generation(self) -> str:
        """HASH `token`, `run`: which server's life the epochs belong to; `partitions`: of how many this is one;
        `format`: of all that is stored (`wsapp.core.formats`)."""
        return f"{self.base}generation"

    @property
    def probe(self) -> str:
        """STRING, empty: written to see whether the server takes writes."""
        return f"{self.base}probe"

    @property
    def workers(self) -> str:
        """SET of the boot ids that may have a lease."""
        return f"{self.base}workers"

    @property
    def secret(self) -> str:
        """STRING: what a worker proves by that it forwards a request, and is no client."""
        return f"{self.base}secret"

    @property
    def api_keys(self) -> str:
        """HASH: keys of the server API by name, each as JSON `{scopes, digest, created}`."""
        return f"{self.base}api-keys"

    def stream(self, room: str) -> str:
        """STREAM: `<seq>-0` with `ts` (ms, the server's clock) and `r` (the record)."""
        return f"{self.base}stream:{room}"

    def head(self, room: str) -> str:
        """STRING `epoch generation seq first bytes oldest at until`: see publish.lua."""
        return f"{self.base}head:{room}"

    def session(self, session_id: str) -> str:
        """HASH `owner`, `user`, `positions` (JSON), `metadata` (JSON)."""
        return f"{self.base}session:{session_id}"

    def worker(self, boot: str) -> str:
        """STRING: a worker's facts as JSON; its time to live is the lease."""
        return f"{self.base}worker:{boot}"

    def presence(self, room: str) -> str:
        """HASH of `<boot>\\t<user>` to connections, of a room that somebody asks for."""
        return f"{self.base}presence:{room}"

    def watching(self, boot: str) -> str:
        """HASH of room to connections on a worker; its time to live is the lease.  The field `` is always there."""
        return f"{self.base}watching:{boot}"

    def asks(self, boot: str) -> str:
        """SET of the rooms whose presence a worker asks for; its time to live is the lease."""
        return f"{self.base}asks:{boot}"

    def revocation(self, entry: str) -> str:
        """STRING: when the entry was revoked (s since the epoch); its time to live is that of what it revokes."""
        return f"{self.base}revoked:{entry}"

    def result(self, key: str) -> str:
        """STRING: where the publication with this idempotency key stands."""
        if len(key) > LONGEST_KEY:
            key = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return f"{self.base}result:{key}"

    def critical(self, user: str) -> str:
        """ZSET of the ids that the user has not acknowledged, by when they are due (ms)."""
        return f"{self.base}critical:{user}"

    def delivery(self, id: str) -> str:
        """HASH of a critical event: `record`, and `u:<user>` = p (pending), a (acknowledged) or d (dead letter), a
        blank and how often it was sent."""
        return f"{self.base}delivery:{id}"

    @property
    def due(self) -> str:
        """ZSET of the users with something pending, by when the first of it is due (ms) or earlier."""
        return f"{self.base}due"

    @property
    def dead_letters(self) -> str:
        """ZSET of `<user>\\t<id>` by death (ms)."""
        return f"{self.base}deadletters"

    @property
    def room_channels(self) -> str:
        """What a room's channel begins with; the room's name follows."""
        return f"{self.base}{self.database}:room:"

    @property
    def bus(self) -> str:
        """The channel on which the workers of this deployment pass on what its host application emits."""
        return f"{self.base}{self.database}:bus"

    @property
    def control_channels(self) -> str:
        """What a worker's control channel begins with; its boot id follows."""
        return f"{self.base}{self.database}:control:"



class PublishKeys:
    """The keys that publish.lua declares.  Those of a room are made once, as they go on the wire."""

    def __init__(self, keys: RedisKeys) -> None:
        self._keys = keys
        self._common: tuple[Argument, ...] = (keys.generation.encode(),)
        self._rooms: dict[str, tuple[Argument, ...]] = {}

    def of(self, draft: Draft) -> list[Argument]:
        """The keys of a draft, in the script's order."""
        names = [*self._common]
        for room in dict.fromkeys(draft.rooms):
            names += self._rooms.get(room) or self._make(room)
        if draft.key:
            names.append(self._keys.result(draft.key))
        return names

    def _make(self, room: str) -> tuple[Argument, ...]:
        if len(self._rooms) >= MOST_ROOMS:
            self._rooms.clear()
        made = self._rooms[room] = (self._keys.stream(room).encode(), self._keys.head(room).encode())
        return made
