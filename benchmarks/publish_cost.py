"""`python -m benchmarks.publish_cost`: the server's CPU for one publish, and for a bare PUBLISH of the same bytes.

Both are single commands on one connection, each in its own round trip, in turns of a second, so that what else the
machine does hits both.  Nobody subscribes.  Rooms are filled first: each publish then also has to keep their bounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import redis

from wsapp.backends.embedded import start_embedded
from wsapp.backends.redis_broker import RedisBackend
from wsapp.core.events import Draft, Lane
from wsapp.core.ports import Limits

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def cost_us(pid: int, operation: Callable[[], object], seconds: float) -> float:
    """The server's CPU for one operation."""
    begun, before, done = time.monotonic(), cpu_seconds(pid), 0
    while time.monotonic() - begun < seconds:
        for _ in range(100):
            operation()
        done += 100
    return (cpu_seconds(pid) - before) / done * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish_cost", description=__doc__)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--history", type=int, default=1000, help="WSAPP_HISTORY_SIZE")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    given = parser.parse_args()
    server = start_embedded()
    try:
        backend = RedisBackend(server.url, Limits(history_size=given.history), channel="stock", timeout=5.0)
        bare = redis.Redis.from_url(server.url)
        numbers = count()
        body = b'{"agentId":"a1","thought":"' + b"x" * 200 + b'"}'

        def draft() -> Draft:
            room = f"agent:a{next(numbers) % given.rooms}"
            return Draft("agent-thought", (room,), body, int(time.time() * 1000), lane=Lane.LOG, entity="a", flags="is")

        for _ in range(given.rooms * given.history // 500 + 1):
            backend.broker.publish([draft() for _ in range(500)])
        wire = b"0123456789abcdef\t1764241234567\t5\tis\tl\ta\tagent-thought\tagent:a1\t123\tabcd1234-1a2b3c\n" + body
        pid = server.process.pid
        turns = [(cost_us(pid, lambda: backend.broker.publish([draft()]), given.seconds),
                  cost_us(pid, lambda: bare.publish("wsapp:{0}:0:room:agent:a1", wire), given.seconds))
                 for _ in range(given.turns)]
        ours, theirs = (statistics.median(column) for column in zip(*turns, strict=True))
        print(f"publish {ours:.1f} us, PUBLISH {theirs:.1f} us, {ours / theirs:.2f} times; turns: "
              + ", ".join(f"{a:.0f}/{b:.0f}" for a, b in turns))
        backend.close()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
