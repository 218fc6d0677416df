"""Which partition a room belongs to, and in which order events of several partitions are recorded.

A room's partition is the CRC-32 (as zlib's, ISO 3309) of its name in UTF-8, modulo their number: the same in every
process and version.  Names without a colon belong to no feature but to workers themselves: they are in partition 0,
where sessions, leases and control messages are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from wsapp.core.events import Draft

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


def made_together(one: str, other: str, count: int) -> bool:
    """Whether two ids of the broker were made in one partition, and so say by themselves which came first."""
    return count == 1 or int(one, 16) % count == int(other, 16) % count


class Wave:
    """Drafts that can be recorded at the same time without changing their order in any room: first each one in its
    home, which gives it its id, then each in its other partitions."""

    __slots__ = ("_elsewhere", "drafts", "places")

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.places: list[dict[int, list[str]]] = []
        self._elsewhere: set[str] = set()

    def takes(self, places: dict[int, list[str]]) -> bool:
        """Whether nothing of the wave comes later to a room in which this one begins."""
        return self._elsewhere.isdisjoint(next(iter(places.values())))

    def add(self, draft: Draft, places: dict[int, list[str]]) -> None:
        """One more draft, with its rooms by partition."""
        self.drafts.append(draft)
        self.places.append(places)
        if len(places) > 1:
            self._elsewhere.update(*list(places.values())[1:])


def waves(drafts: Sequence[Draft], count: int) -> Iterator[Wave]:
    """The drafts in as few waves as their order allows; one when none is of several partitions.  Raises ValueError for
    one without a room."""
    wave = Wave()
    for draft in drafts:
        places = spread(draft.rooms, count)
        if not places:
            raise ValueError(f"{draft.event!r} is published to no room")
        if not wave.takes(places):
            yield wave
            wave = Wave()
        wave.add(draft, places)
    if wave.drafts:
        yield wave


def room_in(stem: str, partition: int, count: int) -> str:
    """The first of `<stem>`, `<stem>.1`, `<stem>.2`... that belongs to a partition."""
    name, number = stem, 0
    while partition_of(name, count) != partition:
        number += 1
        name = f"{stem}.{number}"
    return name
