"""Revoked tokens, users and sessions in Redis: a key each, gone when what it revokes would have expired anyway."""

from __future__ import annotations

import time
from collections.abc import Sequence

from wsapp.backends.records import milliseconds, revoked_message
from wsapp.backends.redis_scripts import REVOKE
from wsapp.backends.redis_wire import RedisPool


class RedisRevocations:
    """`Revocations` over one script."""

    def __init__(self, pool: RedisPool) -> None:
        self._pool, self._keys = pool, pool.keys

    def revoke(self, entry: str, at: float, until: float) -> None:
        """As `Revocations.revoke`."""
        left = until - time.time()
        if left <= 0:
            return
        self._pool.ask([REVOKE.command(
            [self._keys.revocation(entry), self._keys.workers],
            [repr(at), milliseconds(left), self._keys.control_channels, revoked_message(entry, at, until)])])

    def revoked(self, entries: Sequence[str]) -> dict[str, float]:
        """As `Revocations.revoked`."""
        if not entries:
            return {}
        (found,) = self._pool.ask([("MGET", *map(self._keys.revocation, entries))])
        return {entry: float(at) for entry, at in zip(entries, found, strict=True) if at is not None}
