"""The memory twin by itself; what both promise is in test_redis_api_keys.py."""

from __future__ import annotations

from wsapp.backends.memory_api_keys import MemoryApiKeys
from wsapp.core.api_keys import make_key


def test_each_store_is_its_own() -> None:
    key, _ = make_key("a", ["read"], 0)
    assert MemoryApiKeys().add(key)
    assert MemoryApiKeys().all() == []
