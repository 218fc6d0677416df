"""Critical events in Redis: the record once, a field per user, and what is due in sorted sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from wsapp.backends.records import milliseconds
from wsapp.backends.redis_keys import Argument
from wsapp.backends.redis_scripts import (
    CRITICAL_ACK,
    CRITICAL_CLAIM,
    CRITICAL_DUE,
    CRITICAL_KEEP,
    CRITICAL_REQUEUE,
    CRITICAL_RETRY,
    CRITICAL_SEND,
    Command,
)
from wsapp.backends.redis_wire import RedisPool
from wsapp.core.ports import UNBOUNDED, Buried, DeadLetter, Due, Fate, Kept, Limits, Retry, UserDelivery

USERS: Final = 200  # of one script call: none holds the server for long
CLAIMED: Final = 100  # events of one user at once
_FATES: Final = {"p": Fate.PENDING, "a": Fate.ACKED, "d": Fate.DEAD}


class RedisCritical:
    """`CriticalStore` over small scripts, each one atomic for one user or for one event."""

    def __init__(self, pool: RedisPool, limits: Limits) -> None:
        self._pool, self._keys = pool, pool.keys
        self._items = limits.critical_items
        self._ttl = milliseconds(limits.critical_ttl)
        self._dead: list[Argument] = [limits.dead_letters, milliseconds(max(limits.dead_ttl, limits.critical_ttl))]

    def keep(self, kept: Sequence[Kept]) -> None:
        """As `CriticalStore.keep`."""
        commands = [self._keep(one, one.users[start:start + USERS])
                    for one in kept for start in range(0, len(one.users), USERS)]
        if commands:
            self._pool.ask(commands)

    def _keep(self, kept: Kept, users: tuple[str, ...]) -> Command:
        keys = self._keys
        return CRITICAL_KEEP.command(
            [keys.delivery(kept.id), keys.due, keys.dead_letters, *map(keys.critical, users)],
            [kept.id, kept.record, milliseconds(kept.delay), self._ttl, self._items, *self._dead, *users])

    def due(self, users: Sequence[str], lease: float, most: int = UNBOUNDED) -> list[Due]:
        """As `CriticalStore.due`.  One question when nobody has anything pending, which is the rule."""
        if not users or self._pool.ask([("EXISTS", self._keys.due)]) == [0]:
            return []
        asked = [CRITICAL_DUE.command([self._keys.due], [*users[start:start + USERS]])
                 for start in range(0, len(users), USERS)]
        late = [user.decode() for part in self._pool.ask(asked) for user in part]
        return self._take(late, lease, most)

    def visit(self, users: Sequence[str], lease: float) -> list[Due]:
        """As `CriticalStore.visit`."""
        if not users or self._pool.ask([("EXISTS", self._keys.due)]) == [0]:
            return []
        return self._take(users, lease, None)

    def _take(self, users: Sequence[str], lease: float, most: int | None) -> list[Due]:
        found: list[Due] = []
        for start in range(0, len(users), USERS):
            some = users[start:start + USERS]
            claimed = self._pool.ask([self._claim(user, lease, most is not None) for user in some])
            found += self._send([(user, id.decode()) for user, ids in zip(some, claimed, strict=True)
                                 for id in sorted(ids)], most)
        return found

    def _claim(self, user: str, lease: float, due: bool) -> Command:
        return CRITICAL_CLAIM.command([self._keys.critical(user), self._keys.due],
                                      [user, milliseconds(lease), CLAIMED if due else self._items, int(not due)])

    def _send(self, claimed: list[tuple[str, str]], most: int | None) -> list[Due]:
        if not claimed:
            return []
        ids = list(dict.fromkeys(id for _, id in claimed))
        counting: list[Argument] = [0, 0] if most is None else [1, most]
        sends = [CRITICAL_SEND.command([self._keys.delivery(id), self._keys.critical(user)], [user, id, *counting])
                 for user, id in claimed]
        replies = self._pool.ask([*sends, *(("HGET", self._keys.delivery(id), "record") for id in ids)], patient=True)
        records = dict(zip(ids, replies[len(sends):], strict=True))
        return [Due(user, id, attempts, records[id]) for (user, id), attempts
                in zip(claimed, replies, strict=False) if attempts is not None and records[id] is not None]

    def retry(self, retries: Sequence[Retry]) -> list[UserDelivery | None]:
        """As `CriticalStore.retry`."""
        replies = self._pool.ask([self._retry(one) for one in retries]) if retries else []
        return [None if reply is None else _delivery(reply) for reply in replies]

    def _retry(self, retry: Retry) -> Command:
        return CRITICAL_RETRY.command(self._declared(retry.user, retry.id),
                                      [retry.user, retry.id, milliseconds(retry.delay), retry.most, *self._dead])

    def _declared(self, user: str, id: str) -> list[str]:
        return [self._keys.delivery(id), self._keys.critical(user), self._keys.due, self._keys.dead_letters]

    def ack(self, user: str, id: str) -> bool:
        """As `CriticalStore.ack`."""
        return self._pool.ask([CRITICAL_ACK.command(self._declared(user, id), [user, id])]) == [1]

    def status(self, id: str) -> dict[str, UserDelivery]:
        """As `CriticalStore.status`."""
        (fields,) = self._pool.ask([("HGETALL", self._keys.delivery(id))])
        return {name[2:].decode(): _delivery(value) for name, value in zip(fields[::2], fields[1::2], strict=True)
                if name.startswith(b"u:")}

    def dead(self, limit: int, after: Buried | None = None) -> list[DeadLetter]:
        """As `CriticalStore.dead`; those whose event is forgotten are taken off the list."""
        while members := self._buried(limit, after) if limit > 0 else []:
            letters, lost = self._read(members)
            if not lost:
                return letters
            self._pool.ask([("ZREM", self._keys.dead_letters, *lost)])
        return []

    def _read(self, members: Sequence[tuple[str, str, float]]) -> tuple[list[DeadLetter], list[str]]:
        found = self._pool.ask([("HMGET", self._keys.delivery(id), "record", f"u:{user}")
                                for user, id, _ in members], patient=True)
        letters = [_letter(*member, *fields) for member, fields in zip(members, found, strict=True)]
        lost = [f"{user}\t{id}" for (user, id, _), letter in zip(members, letters, strict=True) if letter is None]
        return [letter for letter in letters if letter is not None], lost

    def _buried(self, limit: int, after: Buried | None) -> list[tuple[str, str, float]]:
        """User, id and death of the dead letters after one, in the set's order: by score, then by member."""
        key, most = self._keys.dead_letters, ("LIMIT", 0, limit, "WITHSCORES")
        if after is None:
            (listed,) = self._pool.ask([("ZRANGE", key, "-inf", "+inf", "BYSCORE", *most)])
        else:
            at, member = round(after.died * 1000), f"{after.user}\t{after.id}".encode()
            same, later = self._pool.ask([("ZRANGE", key, at, at, "BYSCORE", "WITHSCORES"),
                                          ("ZRANGE", key, f"({at}", "+inf", "BYSCORE", *most)])
            listed = [part for pair in zip(same[::2], same[1::2], strict=True) if pair[0] > member for part in pair]
            listed += later
        return [(*name.decode().rpartition("\t")[::2], float(died) / 1000)
                for name, died in zip(listed[:2 * limit:2], listed[1:2 * limit:2], strict=True)]

    def requeue(self, user: str, id: str) -> bool:
        """As `CriticalStore.requeue`."""
        return self._pool.ask([CRITICAL_REQUEUE.command(self._declared(user, id), [user, id, self._dead[1]])]) == [1]

    def drop(self, user: str, id: str) -> bool:
        """As `CriticalStore.drop`."""
        return self._pool.ask([("ZREM", self._keys.dead_letters, f"{user}\t{id}")]) == [1]


def _delivery(field: bytes) -> UserDelivery:
    state, _, attempts = field.decode().partition(" ")
    return UserDelivery(_FATES[state], int(attempts))


def _letter(user: str, id: str, died: float, record: Any, field: Any) -> DeadLetter | None:
    if record is None or field is None:
        return None
    return DeadLetter(user, id, _delivery(field).attempts, died, record)
