"""What the contract test cannot see: the keys of sessions."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tests.backends.conftest import World
from tests.valkey import Valkey
from wsapp.backends.redis_keys import RedisKeys
from wsapp.backends.redis_sessions import RedisSessions
from wsapp.backends.redis_wire import RedisAddress, RedisPool
from wsapp.core.events import Position
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


def test_a_position_before_everything_is_of_one_servers_life(shared_world: World) -> None:
    """What another life brought to a room that had no epoch may be gone, and nobody would know."""
    sessions = shared_world.open().sessions
    saved = SavedSession("s", "u", "w:1", {"agent:a": Position("", 0), "agent:b": Position("e", 3)})
    key = RedisKeys(shared_world.prefix).generation
    assert sessions.save([saved]) == [True]
    assert sessions.take("s", "w:1") == saved
    with redis.Redis.from_url(str(shared_world.url)) as client:
        token = client.hget(key, "token")
        client.hset(key, "token", "another")
        later = sessions.take("s", "w:1")
        client.hset(key, "token", token)
    assert later is not None
    assert later.positions == {"agent:a": Position(token.decode(), 0), "agent:b": Position("e", 3)}


def test_a_crowd_that_returns_shares_pipelines() -> None:
    """A hundred at once: the first goes alone, the others together while it is under way."""
    with Valkey() as server:
        pool = RedisPool(RedisAddress.parse(server.url), RedisKeys("t:"), 5.0)
        asked: list[int] = []
        ask = pool.ask

        def slow(commands: Any, patient: bool = False) -> Any:
            asked.append(len(commands))
            time.sleep(0.05)
            return ask(commands, patient)

        pool.ask = slow  # type: ignore[method-assign]
        sessions = RedisSessions(pool, Limits())
        saved = [SavedSession(f"s{number}", "u", "w:1", {"agent:a": Position("e", number)}) for number in range(100)]
        with ThreadPoolExecutor(100) as threads:
            assert list(threads.map(lambda one: sessions.save([one]), saved)) == [[True]] * 100
            assert list(threads.map(lambda one: sessions.take(one.session_id, "w:1"), saved)) == saved
            others = list(threads.map(lambda one: _refused(sessions, one.session_id), saved[:10]))
        assert others == [True] * 10
        assert sum(asked) == 210
        assert len(asked) < 30
        pool.close()


def _refused(sessions: RedisSessions, session_id: str) -> bool:
    with pytest.raises(PermissionError):
        sessions.take(session_id, "w:2", "somebody else")
    return True
