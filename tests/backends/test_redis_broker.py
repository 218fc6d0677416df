"""What only the Redis broker can get wrong: foreign state in its keys, other servers, other databases."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
import redis

from tests.backends.conftest import World, draft, eventually
from tests.valkey import Valkey
from wsapp.backends.redis_broker import RedisBackend
from wsapp.backends.redis_keys import RedisKeys
from wsapp.core.events import Position
from wsapp.core.ports import HistoryQuery, Limits
from wsapp.errors import BrokerUnavailable

A, B = "agent:a", "task:b"


def head(backend: RedisBackend, room: str = A) -> Position:
    return backend.broker.read([HistoryQuery(room)])[0].head


@pytest.fixture
def raw(shared_world: World) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(str(shared_world.url), decode_responses=True) as client:
        yield client


@pytest.fixture
def keys(shared_world: World) -> RedisKeys:
    return RedisKeys(shared_world.prefix)


@pytest.fixture
def backend(shared_world: World) -> RedisBackend:
    opened = shared_world.open(Limits(history_size=20))
    assert isinstance(opened, RedisBackend)
    return opened


class TestForeignState:
    def test_a_partial_head_begins_a_new_epoch(self, backend: RedisBackend, raw: redis.Redis, keys: RedisKeys) -> None:
        for missing in range(8):
            (old,) = backend.broker.publish([draft()])
            words = str(raw.get(keys.head(A))).split(" ")
            assert len(words) == 8
            raw.set(keys.head(A), " ".join(words[:missing] + words[missing + 1:]))
            assert head(backend) == Position("", 0)
            (new,) = backend.broker.publish([draft()])
            assert new.places[0].epoch != old.places[0].epoch, missing
            assert (new.places[0].seq, raw.xlen(keys.stream(A))) == (1, 1)

    def test_a_lost_head_with_a_kept_stream(self, backend: RedisBackend, raw: redis.Redis, keys: RedisKeys) -> None:
        (old,) = backend.broker.publish([draft(), draft()])[1:]
        raw.delete(keys.head(A))
        assert head(backend) == Position("", 0)
        (new,) = backend.broker.publish([draft()])
        assert new.places[0].seq == 1
        assert new.places[0].epoch != old.places[0].epoch

    def test_heads_of_a_foreign_generation_are_none(self, backend: RedisBackend, raw: redis.Redis,
                                                    keys: RedisKeys) -> None:
        (receipt,) = backend.broker.publish([draft()])
        assert backend.broker.heads([A]) == {A: receipt.positions[A]}
        epoch, _, rest = str(raw.get(keys.head(A))).split(" ", 2)
        raw.set(keys.head(A), f"{epoch} other {rest}")
        assert backend.broker.heads([A]) == {A: Position("", 0)}
        raw.delete(keys.generation)
        assert backend.broker.heads([A, B]) == {A: Position("", 0), B: Position("", 0)}

    def test_lost_stream_with_a_kept_head(self, backend: RedisBackend, raw: redis.Redis, keys: RedisKeys) -> None:
        backend.broker.publish([draft(), draft()])
        raw.delete(keys.stream(A))
        assert backend.broker.read([HistoryQuery(A)])[0].first == 3
        assert backend.broker.publish([draft()])[0].places[0].seq == 3
        page = backend.broker.read([HistoryQuery(A)])[0]
        assert (page.first, len(page.publications)) == (3, 1)

    def test_trimmed_by_hand(self, backend: RedisBackend, raw: redis.Redis, keys: RedisKeys) -> None:
        backend.broker.publish([draft() for _ in range(9)])
        raw.xtrim(keys.stream(A), minid="6-0", approximate=False)
        assert backend.broker.read([HistoryQuery(A)])[0].first == 6
        assert backend.broker.publish([draft()])[0].places[0].seq == 10
        page = backend.broker.read([HistoryQuery(A)])[0]
        assert (page.first, len(page.publications)) == (6, 5)

    def test_a_foreign_entry_ahead_begins_a_new_epoch(self, backend: RedisBackend, raw: redis.Redis,
                                                      keys: RedisKeys) -> None:
        (old,) = backend.broker.publish([draft(A, B)])
        raw.xadd(keys.stream(A), {"ts": "1", "r": "x"}, id="99-0")
        (new,) = backend.broker.publish([draft(A, B)])
        assert new.positions[A].seq == 1
        assert new.positions[A].epoch != old.positions[A].epoch
        assert new.positions[B] == Position(old.positions[B].epoch, 2)

    def test_a_foreign_type_is_named_and_nothing_is_half_written(self, backend: RedisBackend, raw: redis.Redis,
                                                                 keys: RedisKeys) -> None:
        raw.hset(keys.head(B), "not", "ours")
        with pytest.raises(BrokerUnavailable, match="another prefix"):
            backend.broker.publish([draft(A, B)])
        assert head(backend, A) == Position("", 0)

    def test_flushall(self, backend: RedisBackend, own_valkey: Valkey) -> None:
        backend = RedisBackend(own_valkey.url, Limits(), channel="stock", timeout=1.0)
        (old,) = backend.broker.publish([draft()])
        with redis.Redis.from_url(own_valkey.url) as client:
            client.flushall()
            client.script_flush()
        assert head(backend) == Position("", 0)
        new, following = backend.broker.publish([draft(), draft()])
        assert (new.places[0].seq, following.places[0].seq) == (1, 2)
        assert new.places[0].epoch != old.places[0].epoch
        assert new.id > old.id
        backend.close()


class TestGeneration:
    def test_another_run_id_begins_new_epochs_everywhere(self, backend: RedisBackend, raw: redis.Redis,
                                                         keys: RedisKeys, shared_world: World) -> None:
        """As after a fail-over: the data is there, the server is another."""
        (old,) = backend.broker.publish([draft(A, B, key="k")])
        raw.hset(keys.generation, "run", "the run id of another server")
        other = shared_world.open()
        other.ping()
        assert head(backend) == Position("", 0)
        (new,) = backend.broker.publish([draft(A, B, key="k")])
        assert new.duplicate is False
        for room in (A, B):
            assert new.positions[room].seq == 1
            assert new.positions[room].epoch != old.positions[room].epoch
            assert raw.xlen(keys.stream(room)) == 1
        assert new.id > old.id

    def test_the_same_server_keeps_its_epochs(self, backend: RedisBackend, shared_world: World) -> None:
        (first,) = backend.broker.publish([draft()])
        (second,) = shared_world.open().broker.publish([draft()])
        assert second.positions[A] == Position(first.positions[A].epoch, 2)

    def test_a_restarted_server_begins_new_epochs(self, own_valkey: Valkey) -> None:
        backend = RedisBackend(own_valkey.url, Limits(), channel="stock", timeout=1.0)
        (old,) = backend.broker.publish([draft()])
        own_valkey.restart()
        (new,) = backend.broker.publish([draft()])
        assert new.places[0].seq == 1
        assert new.places[0].epoch != old.places[0].epoch
        assert new.id > old.id
        backend.close()


def test_everything_expires(backend: RedisBackend, raw: redis.Redis, keys: RedisKeys) -> None:
    backend.broker.publish([draft(key="k")])
    for name, ttl in ((keys.head(A), 86_400), (keys.result("k"), 300)):
        assert ttl - 60 < raw.ttl(name) <= ttl
    assert 900 <= raw.ttl(keys.stream(A)) <= 900 * 9 / 8
    assert set(raw.scan_iter(f"{keys.prefix}*")) == {
        keys.stream(A), keys.head(A), keys.result("k"), keys.generation}


def test_the_expiry_of_a_stream_is_pushed_on_in_time(shared_world: World, raw: redis.Redis, keys: RedisKeys) -> None:
    """Not for each publish; and what is read is of the age that was promised."""
    broker = shared_world.open(Limits(history_age=4.0)).broker
    broker.publish([draft()])
    first = raw.expiretime(keys.stream(A))
    pushed = 0
    for _ in range(10):
        before = raw.pexpiretime(keys.stream(A))
        time.sleep(0.1)
        broker.publish([draft()])
        pushed += raw.pexpiretime(keys.stream(A)) != before
        assert raw.pttl(keys.stream(A)) >= 4000 - 20
    assert raw.expiretime(keys.stream(A)) >= first
    assert 1 <= pushed <= 4


def test_entries_over_the_number_leave_in_steps_and_are_not_shown(shared_world: World, raw: redis.Redis,
                                                                  keys: RedisKeys) -> None:
    broker = shared_world.open(Limits(history_size=80)).broker
    lengths = []
    for seq in range(1, 201):
        broker.publish([draft()])
        lengths.append(raw.xlen(keys.stream(A)))
        if seq % 7 == 0:
            page = broker.read([HistoryQuery(A, limit=1000)])[0]
            assert (page.first, len(page.publications)) == (max(1, seq - 79), min(seq, 80))
            assert page.publications[0].seq(A) == page.first
            back = broker.read([HistoryQuery(A, limit=1000, backwards=True)])[0].publications
            assert [each.seq(A) for each in back] == list(range(seq, page.first - 1, -1))
    assert max(lengths) == 90
    assert len([1 for one, other in itertools.pairwise(lengths) if other < one]) == 10


def test_databases_do_not_hear_each_other(valkey: Valkey, shared_world: World) -> None:
    listener = shared_world.listen()
    listener.backend.broker.subscribe([A])
    other = RedisBackend(valkey.url[:-1] + "1", Limits(), channel="stock", prefix=shared_world.prefix, timeout=1.0)
    other.broker.publish([draft()])
    listener.backend.broker.publish([draft(), draft()])
    other.close()
    eventually(lambda: listener.seqs(A)[-1:] == [2])
    assert listener.seqs(A) == [1, 2]
