"""Into how many partitions the rooms in Redis are divided, and how to divide them anew.

Whoever connects compares the number with its own and is refused when it differs.  So it is changed here alone, while
nothing runs, and by connections that do not compare.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hiredis

from wsapp.backends.redis_errors import unavailable
from wsapp.backends.redis_line import RedisLine, open_lines
from wsapp.backends.redis_scripts import Command
from wsapp.backends.redis_wire import FAILURES, RedisWire


def read_division(url: str, prefix: str, timeout: float) -> int | None:
    """The number of partitions; None when nobody has connected yet.  Raises BrokerUnavailable, SettingsError."""
    (line,) = open_lines(url, prefix)
    token, count = _ask(line, [("HMGET", line.keys.generation, "token", "partitions")], timeout)[0]
    return int(count or 1) if token else None


def living(url: str, prefix: str, timeout: float) -> list[str]:
    """The workers that have a lease.  Raises BrokerUnavailable, SettingsError."""
    (line,) = open_lines(url, prefix)
    (boots,) = _ask(line, [("SMEMBERS", line.keys.workers)], timeout)
    names = sorted(boot.decode() for boot in boots)
    leases = _ask(line, [("EXISTS", line.keys.worker(name)) for name in names], timeout) if names else []
    return [name for name, lease in zip(names, leases, strict=True) if lease]


def divide(url: str, prefix: str, count: int, timeout: float) -> None:
    """Divide the rooms into `count` partitions.  What was published before is not replayed any more: every room begins
    anew, and who comes back is told.  Raises BrokerUnavailable; then it can be repeated."""
    before = read_division(url, prefix, timeout) or 1
    lines = open_lines(url, prefix, count)
    kept = {line.keys.generation for line in lines}
    for line in open_lines(url, prefix, before):
        if line.keys.generation not in kept:
            _ask(line, [("DEL", line.keys.generation)], timeout)
    for line in reversed(lines):  # the first one last: it says that it is done
        _ask(line, [("HSET", line.keys.generation, "token", secrets.token_hex(4), "partitions", count)], timeout)


def _ask(line: RedisLine, commands: Sequence[Command], timeout: float) -> list[Any]:
    """The replies to commands of one partition, over a connection of their own."""
    try:
        wire = RedisWire(line.address.connect(timeout))
        try:
            greeting = line.address.greeting
            replies = wire.ask([*greeting, *commands], timeout)
        finally:
            with suppress(OSError):  # it may be gone already
                wire.close()
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        return replies[len(greeting):]
    except FAILURES as error:
        raise unavailable(error, line.address.where, timeout) from error
