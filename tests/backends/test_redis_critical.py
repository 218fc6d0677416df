"""What the contract test cannot see: the keys of critical events."""

from __future__ import annotations

import redis

from tests.backends.conftest import World
from wsapp.backends.redis_keys import RedisKeys
from wsapp.core.ports import Kept, Limits, Retry


def test_every_key_ends_by_itself(shared_world: World) -> None:
    store = shared_world.open(Limits(critical_ttl=50, dead_ttl=100)).critical
    store.keep([Kept("a", b"r", ("ada", "bob"), 1.0), Kept("b", b"r", ("ada",), 1.0)])
    store.retry([Retry("bob", "a", 0.0, 0)])
    store.requeue("bob", "a")
    store.retry([Retry("ada", "b", 0.0, 0)])
    with redis.Redis.from_url(str(shared_world.url)) as client:
        keys = [key for key in client.scan_iter(f"{shared_world.prefix}*") if not key.endswith(b"generation")]
        lives = {key: client.ttl(key) for key in keys}
    names = RedisKeys(shared_world.prefix)
    assert {key.decode() for key in keys} == {names.delivery("a"), names.delivery("b"), names.critical("ada"),
                                              names.critical("bob"), names.due, names.dead_letters}
    assert all(0 < life <= 100 for life in lives.values()), lives


def test_the_record_is_stored_once_and_ends_first(shared_world: World) -> None:
    store = shared_world.open(Limits(critical_ttl=50)).critical
    store.keep([Kept("a", b"r" * 10_000, tuple(f"u{number}" for number in range(500)), 1.0)])
    with redis.Redis.from_url(str(shared_world.url)) as client:
        names = RedisKeys(shared_world.prefix)
        assert client.hlen(names.delivery("a")) == 501
        assert 40 < client.ttl(names.delivery("a")) <= 50
        assert client.memory_usage(names.critical("u1")) < 1000


def test_nobody_is_due_any_more_when_all_is_acknowledged(shared_world: World) -> None:
    store = shared_world.open().critical
    store.keep([Kept("a", b"r", ("ada",), 1.0), Kept("b", b"r", ("ada",), 1.0)])
    with redis.Redis.from_url(str(shared_world.url)) as client:
        due = RedisKeys(shared_world.prefix).due
        store.ack("ada", "a")
        assert client.exists(due)
        store.ack("ada", "b")
        assert not client.exists(due)


def test_scripts_that_were_flushed_are_sent_again(shared_world: World) -> None:
    store = shared_world.open().critical
    store.keep([Kept("a", b"r", ("ada",), 1.0)])
    with redis.Redis.from_url(str(shared_world.url)) as client:
        client.script_flush()
    assert store.ack("ada", "a")
