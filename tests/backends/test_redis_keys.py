from __future__ import annotations

import pytest

from tests.backends.conftest import draft
from wsapp.backends import redis_keys
from wsapp.backends.redis_keys import PublishKeys, RedisKeys, partition_tags, slot_of


def test_every_key_carries_the_hash_tag_of_its_partition() -> None:
    keys = RedisKeys("wsapp:", "3")
    names = [keys.generation, keys.workers, keys.stream("agent:a"), keys.head("agent:a"),
             keys.session("s"), keys.worker("b"), keys.result("k"), keys.room_channels, keys.control_channels,
             keys.critical("u"), keys.delivery("i"), keys.due, keys.dead_letters]
    assert all(name.startswith("wsapp:{3}:") for name in names)
    assert len(set(names)) == len(names)


def test_channels_belong_to_a_database() -> None:
    assert RedisKeys(database=1).room_channels != RedisKeys(database=2).room_channels
    assert RedisKeys(database=1).control_channels != RedisKeys(database=2).control_channels


def test_published_declares_each_room_once_and_the_result_last() -> None:
    keys = RedisKeys()
    made = PublishKeys(keys)
    for _ in range(2):  # made, and kept
        names = [name.decode() if isinstance(name, bytes) else name for name in made.of(draft("a", "b", "a", key="k"))]
        assert names == [keys.generation, keys.stream("a"), keys.head("a"), keys.stream("b"),
                         keys.head("b"), keys.result("k")]
    assert len(made.of(draft("a"))) == 3


def test_the_keys_of_many_rooms_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_keys, "MOST_ROOMS", 3)
    made = PublishKeys(RedisKeys())
    for number in range(10):
        assert made.of(draft(f"agent:{number}"))[2] == RedisKeys().head(f"agent:{number}").encode()
    assert len(made._rooms) <= 3


def test_long_idempotency_keys_are_hashed() -> None:
    keys = RedisKeys()
    assert keys.result("k" * 64).endswith("k" * 64)
    assert len(keys.result("k" * 1000)) < 80
    assert keys.result("k" * 1000) != keys.result("k" * 1001)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 64])
def test_partitions_are_spread_over_the_slots(count: int) -> None:
    tags = partition_tags(count)
    assert tags[0] == "0", "where everything was before there were several"
    assert sorted(slot_of(tag) * count // 16384 for tag in tags) == list(range(count))


def test_the_tag_decides_the_slot_of_keys_and_channels() -> None:
    """Redis Cluster specification, "Keys hash tags": CRC16 of what is between the braces, modulo 16384."""
    keys = RedisKeys(partition="123456789")
    assert keys.slot == 0x31C3 % 16384
    assert "{123456789}" in keys.room_channels
