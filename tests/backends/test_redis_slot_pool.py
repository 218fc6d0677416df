"""Questions follow a slot that is moved, and to a key that has gone before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.valkey_cluster import ValkeyCluster
from wsapp.backends.redis_line import open_lines
from wsapp.backends.redis_slot_pool import SlotPool
from wsapp.backends.redis_wire import RedisPool
from wsapp.errors import BrokerUnavailable


@pytest.fixture
def pool(valkeys: ValkeyCluster, request: pytest.FixtureRequest) -> Iterator[RedisPool]:
    """Of a partition whose slot is at the first node."""
    line = next(line for line in open_lines(valkeys.url, f"{request.node.name}:", 4) if line.keys.slot < 5461)
    pool = line.pool(1.0)
    yield pool
    pool.close()


def names(pool: RedisPool) -> tuple[str, str]:
    return pool.keys.stream("one"), pool.keys.stream("two")


def test_a_moved_slot_is_followed_without_an_error(valkeys: ValkeyCluster, pool: RedisPool) -> None:
    assert isinstance(pool, SlotPool)
    one, two = names(pool)
    moved: list[int] = []
    pool.moved = lambda: moved.append(1)
    assert pool.ask([("SET", one, "1"), ("GET", one)]) == [b"OK", b"1"]
    valkeys.move(pool.keys.slot, valkeys.nodes[0], valkeys.nodes[1])
    try:
        assert pool.ask([("INCR", one), ("SET", two, "x"), ("GET", one)]) == [2, b"OK", b"2"], "each was done once"
        assert moved == [1], "whoever listens there is told"
        assert pool.ask([("INCR", one)]) == [3]
    finally:
        valkeys.move(pool.keys.slot, valkeys.nodes[1], valkeys.nodes[0])
    assert pool.ask([("INCR", one)]) == [4]


def test_a_fresh_connection_does_not_trust_what_is_old(valkeys: ValkeyCluster, pool: RedisPool) -> None:
    one, _ = names(pool)
    pool.ask([("SET", one, "1")])
    valkeys.move(pool.keys.slot, valkeys.nodes[0], valkeys.nodes[1])
    try:
        pool.forget()
        assert pool.ask([("GET", one)]) == [b"1"]
    finally:
        valkeys.move(pool.keys.slot, valkeys.nodes[1], valkeys.nodes[0])


def test_while_a_slot_is_being_moved_its_keys_are_found_on_both_sides(valkeys: ValkeyCluster, pool: RedisPool) -> None:
    one, two = names(pool)
    source, target, slot = valkeys.nodes[0], valkeys.nodes[1], pool.keys.slot
    pool.ask([("SET", one, "1"), ("SET", two, "2")])
    ids = [valkeys.ask(node, "CLUSTER", "MYID") for node in (source, target)]
    valkeys.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    valkeys.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    try:
        valkeys.ask(source, "MIGRATE", "127.0.0.1", target.port, one, 0, 5000)
        assert pool.ask([("GET", one), ("GET", two), ("INCR", one)]) == [b"1", b"2", 2]
        with pytest.raises(BrokerUnavailable, match="being moved to another node: try again"):
            pool.ask([("MGET", one, two)])
    finally:
        valkeys.move(slot, source, target)  # to its end, and back
        valkeys.move(slot, target, source)


def test_errors_are_errors(pool: RedisPool) -> None:
    one, _ = names(pool)
    pool.ask([("SET", one, "1")])
    with pytest.raises(BrokerUnavailable, match="key of another application"):
        pool.ask([("XLEN", one)])
