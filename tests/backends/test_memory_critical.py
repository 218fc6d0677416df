"""What the contract cannot see: that nothing is left behind."""

from __future__ import annotations

from wsapp.backends.memory_critical import MemoryCritical
from wsapp.core.ports import Kept, Limits, Retry


def test_what_is_over_takes_no_memory() -> None:
    now = [0.0]
    store = MemoryCritical(Limits(critical_ttl=10, dead_ttl=20), lambda: now[0])
    store.keep([Kept(f"{number:x}", b"r", ("ada", "bob"), 1.0) for number in range(10)])
    for number in range(10):
        store.ack("ada", f"{number:x}")
    store.retry([Retry("bob", "1", 0.0, 0)])
    now[0] = 10.0
    assert store.status("0") == {}
    assert len(store._events) == 1
    now[0] = 20.0
    assert store.dead(10) == []
    assert (store._events, store._pending, dict(store._dead)) == ({}, {}, {})
