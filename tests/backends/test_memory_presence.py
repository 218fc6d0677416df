"""The memory twin by itself; what both promise is in test_redis_presence.py."""

from __future__ import annotations

from wsapp.backends.memory import MemoryBackend


def test_nothing_is_kept_of_rooms_that_nobody_is_in() -> None:
    backend = MemoryBackend()
    backend.cluster.beat("w1", {}, 30)
    backend.presence.sync("w1", {"agent:a": 1}, 30, anew=True)
    backend.presence.update("w1", "agent:a", {"ann": 1})
    backend.presence.update("w1", "agent:a", {"ann": 0})
    assert backend.presence.members("agent:a") == {}
    backend.presence.sync("w1", {"agent:a": 0}, 30, anew=False)
    assert not backend.presence.watchers("agent:a")
