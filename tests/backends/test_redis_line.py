"""How partitions are reached."""

from __future__ import annotations

import pytest

from wsapp.backends.redis_keys import partition_tags
from wsapp.backends.redis_line import open_lines
from wsapp.backends.redis_live import RedisLive
from wsapp.backends.redis_slot_live import SlotLive
from wsapp.backends.redis_slot_pool import SlotPool
from wsapp.backends.redis_slots import SlotAddress
from wsapp.backends.redis_wire import RedisPool
from wsapp.errors import SettingsError


def test_one_partition_of_one_server_is_as_ever() -> None:
    (line,) = open_lines("redis://host:7/3", "p:")
    assert (line.keys.base, line.keys.database, line.keys.sharded, line.keys.partitions) == ("p:{0}:", 3, False, 1)
    assert type(line.pool(1.0)) is RedisPool
    assert type(line.live("stock", 1.0)) is RedisLive


def test_partitions_of_one_server_share_its_address() -> None:
    lines = open_lines("redis://host:7/3", "p:", 3)
    assert [line.keys.partition for line in lines] == partition_tags(3)
    assert [line.keys.number for line in lines] == [0, 1, 2]
    assert {line.keys.database for line in lines} == {3}
    assert len({id(line.address) for line in lines}) == 1


def test_in_a_cluster_each_has_its_slot_and_all_one_map() -> None:
    lines = open_lines("valkey+cluster://one:1,two:2", "p:", 3)
    slots = [line.address.slot for line in lines if isinstance(line.address, SlotAddress)]
    assert slots == [line.keys.slot for line in lines]
    assert len({id(line.address.nodes) for line in lines if isinstance(line.address, SlotAddress)}) == 1
    assert all(line.keys.sharded for line in lines)
    assert isinstance(lines[1].pool(1.0), SlotPool)
    assert isinstance(lines[1].live("stock", 1.0), SlotLive)


@pytest.mark.parametrize("url", ["amqp://x", "redis+cluster://x/2"])
def test_wrong_urls(url: str) -> None:
    with pytest.raises(SettingsError):
        open_lines(url, "p:", 2)
