"""Which partition a room belongs to.

A room's partition is the CRC-32 (as zlib's, ISO 3309) of its name in UTF-8, modulo their number: the same in every
process and version.  Names without a colon belong to no feature but to workers themselves: they are in partition 0,
where sessions, leases and control messages are.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

MOST_PARTITIONS: Final = 64
SPREAD: Final = "x"  # flag of a record whose event has rooms in other partitions too


def partition_of(room: str, count: int) -> int:
    """The number of a room's partition."""
    return zlib.crc32(room.encode()) % count if ":" in room else 0


def spread(rooms: Sequence[str], count: int) -> dict[int, list[str]]:
    """The rooms by partition, each once; the first key is the home: that of the first room."""
    found: dict[int, list[str]] = {}
    for room in dict.fromkeys(rooms):
        found.setdefault(partition_of(room, count), []).append(room)
    return found


def room_in(stem: str, partition: int, count: int) -> str:
    """The first of `<stem>`, `<stem>.1`, `<stem>.2`... that belongs to a partition."""
    name, number = stem, 0
    while partition_of(name, count) != partition:
        number += 1
        name = f"{stem}.{number}"
    return name
