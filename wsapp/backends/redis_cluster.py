"""Leases and control messages of workers, and the stock Flask-SocketIO channel."""

from __future__ import annotations

from collections.abc import Mapping

from wsapp.backends.records import milliseconds
from wsapp.backends.redis_wire import RedisPool
from wsapp.core.events import strict_dumps, strict_loads


class RedisCluster:
    """`Cluster`: a lease is a key with a time to live, and a set names those there may be."""

    def __init__(self, pool: RedisPool) -> None:
        self._pool, self._keys = pool, pool.keys

    def beat(self, boot: str, facts: Mapping[str, object], ttl: float) -> None:
        """As `Cluster.beat`."""
        self._pool.ask([("SET", self._keys.worker(boot), strict_dumps(dict(facts)), "PX", milliseconds(ttl)),
                        ("SADD", self._keys.workers, boot)])

    def leave(self, boot: str) -> None:
        """As `Cluster.leave`."""
        self._pool.ask([("DEL", self._keys.worker(boot)), ("SREM", self._keys.workers, boot)])

    def workers(self) -> dict[str, dict[str, object]]:
        """As `Cluster.workers`; the dead are taken off the list (a living one is back with its next beat)."""
        (members,) = self._pool.ask([("SMEMBERS", self._keys.workers)])
        boots = sorted(member.decode() for member in members)
        if not boots:
            return {}
        (leases,) = self._pool.ask([("MGET", *map(self._keys.worker, boots))])
        alive = {boot: strict_loads(facts) for boot, facts in zip(boots, leases, strict=True) if facts is not None}
        if len(alive) < len(boots):
            self._pool.ask([("SREM", self._keys.workers, *(boot for boot in boots if boot not in alive))])
        return alive

    def send(self, boot: str, message: bytes) -> None:
        """As `Cluster.send`."""
        self._pool.ask([("PUBLISH", self._keys.control_channels + boot, message)])

    def secret(self, offered: str, ttl: float) -> str:
        """As `Cluster.secret`."""
        name, lasts = self._keys.secret, milliseconds(ttl)
        _, kept, _ = self._pool.ask([("SET", name, offered, "NX", "PX", lasts), ("GET", name),
                                     ("PEXPIRE", name, lasts)])
        return str(kept.decode())


class RedisBus:
    """`Bus`: a channel of this deployment's own.  The stock one, which every application on the server hears, whatever
    its database and prefix, is only listened to."""

    def __init__(self, pool: RedisPool) -> None:
        self._pool, self._channel = pool, pool.keys.bus

    def publish(self, message: bytes) -> None:
        """As `Bus.publish`."""
        self._pool.ask([("PUBLISH", self._channel, message)])
