"""How one partition is reached: its server's address, its names, and what kind of connections they take."""

from __future__ import annotations

from typing import NamedTuple

from wsapp.backends.redis_keys import RedisKeys, partition_tags
from wsapp.backends.redis_live import RedisLive, read_by_thread
from wsapp.backends.redis_sentinel import read_address
from wsapp.backends.redis_slot_live import SlotLive
from wsapp.backends.redis_slot_pool import SlotPool
from wsapp.backends.redis_slots import SlotAddress, is_cluster, read_cluster
from wsapp.backends.redis_wire import Address, RedisPool
from wsapp.core.ports import Reading


class RedisLine(NamedTuple):
    """One partition's way to its server."""

    address: Address
    keys: RedisKeys

    def pool(self, timeout: float, opening: float = 0.0) -> RedisPool:
        """Connections for questions."""
        if isinstance(self.address, SlotAddress):
            return SlotPool(self.address, self.keys, timeout, opening)
        return RedisPool(self.address, self.keys, timeout, opening)

    def live(self, channel: str, timeout: float, reading: Reading = read_by_thread) -> RedisLive:
        """The live connection."""
        if isinstance(self.address, SlotAddress):
            return SlotLive(self.address, self.keys, channel, timeout, reading)
        return RedisLive(self.address, self.keys, channel, timeout, reading)


def open_lines(url: str, prefix: str, partitions: int = 1) -> list[RedisLine]:
    """The line of each partition.  Raises SettingsError for a URL that cannot be read."""
    tags = partition_tags(partitions)
    if is_cluster(url):
        nodes = read_cluster(url)
        keys = [RedisKeys(prefix, tag, 0, number, partitions, sharded=True) for number, tag in enumerate(tags)]
        return [RedisLine(SlotAddress(nodes, each.slot), each) for each in keys]
    address = read_address(url)
    return [RedisLine(address, RedisKeys(prefix, tag, address.database, number, partitions))
            for number, tag in enumerate(tags)]
