"""What the contract test cannot see: the keys of sessions."""

from __future__ import annotations

import redis

from tests.backends.conftest import World
from wsapp.backends.redis_keys import RedisKeys
from wsapp.core.ports import Limits, SavedSession


def test_time_to_live_is_restarted_by_save_and_take(shared_world: World) -> None:
    sessions = shared_world.open(Limits(session_ttl=100)).sessions
    key = RedisKeys(shared_world.prefix).session("s")
    with redis.Redis.from_url(str(shared_world.url)) as client:
        for write in (lambda: sessions.save([SavedSession("s", "u", "w:1", {})]), lambda: sessions.take("s", "w:1")):
            client.expire(key, 50)
            write()
            assert 90 < client.ttl(key) <= 100


def test_a_partial_session_is_none(shared_world: World) -> None:
    sessions = shared_world.open().sessions
    with redis.Redis.from_url(str(shared_world.url)) as client:
        client.hset(RedisKeys(shared_world.prefix).session("s"), "owner", "w:1")
    assert sessions.take("s", "w:2") is None
    assert sessions.save([SavedSession("s", "u", "w:1", {})]) == [True]
