"""Rooms over partitions: the same everywhere, and events of several partitions in their order."""

from __future__ import annotations

import itertools
import random

import pytest

from wsapp.core.events import Draft
from wsapp.core.partitions import made_together, partition_of, room_in, spread, waves


def test_a_room_is_where_it_was_yesterday() -> None:
    """These numbers are part of what is stored: another hash would lose every history."""
    rooms = ("agent:coder", "task:t1", "project:p1", "agent:größe")
    assert [partition_of(room, 4) for room in rooms] == [2, 2, 0, 0]
    assert [partition_of(room, 7) for room in rooms] == [2, 5, 1, 6]
    assert {partition_of(room, 1) for room in rooms} == {0}


def test_rooms_are_divided_evenly() -> None:
    counts = [0] * 8
    for number in range(8000):
        counts[partition_of(f"task:{number}", 8)] += 1
    assert min(counts) > 850


def test_what_belongs_to_workers_is_in_the_first() -> None:
    assert {partition_of(f"drain-{number}", 16) for number in range(100)} == {0}


def test_the_home_comes_first_and_each_room_once() -> None:
    rooms = [room_in(f"agent:{number}", number % 3, 3) for number in range(6)]
    assert spread([rooms[2], rooms[0], rooms[5], rooms[2], rooms[1]], 3) == {
        2: [rooms[2], rooms[5]], 0: [rooms[0]], 1: [rooms[1]]}
    assert list(spread([rooms[2], rooms[0]], 3)) == [2, 0]


def recorded(drafts: list[Draft], count: int) -> dict[str, list[str]]:
    """What each room would record, in its order."""
    found: dict[str, list[str]] = {}
    for wave in waves(drafts, count):
        pairs = list(zip(wave.drafts, wave.places, strict=True))
        homes = [(room, draft) for draft, places in pairs for room in next(iter(places.values()))]
        others = [(room, draft) for draft, places in pairs for rooms in list(places.values())[1:] for room in rooms]
        for room, draft in homes + others:
            found.setdefault(room, []).append(draft.event)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_no_room_sees_another_order(seed: int) -> None:
    chance = random.Random(seed)
    rooms = [f"agent:{number}" for number in range(chance.choice([4, 12]))]
    drafts = [Draft(str(number), tuple(chance.sample(rooms, chance.choice([1, 1, 2, 3]))), b"", 0)
              for number in range(60)]
    for room, events in recorded(drafts, 4).items():
        assert events == [draft.event for draft in drafts if room in draft.rooms]


def test_events_of_one_partition_each_are_one_wave() -> None:
    drafts = [Draft("e", (f"agent:{number}",), b"", 0) for number in range(100)]
    assert len(list(waves(drafts, 4))) == 1
    assert list(waves([], 4)) == []


def test_events_of_the_same_two_partitions_are_one_wave() -> None:
    rooms = (room_in("agent:a", 1, 4), room_in("task:t", 2, 4))
    assert len(list(waves([Draft("e", rooms, b"", 0)] * 50, 4))) == 1
    project = room_in("project:p", 3, 4)
    to_projects = [Draft("e", (room_in(f"agent:{number}", number % 3, 4), project), b"", 0) for number in range(50)]
    assert len(list(waves(to_projects, 4))) == 1, "nothing begins in a room to which something comes later"
    alternating = [Draft("e", pair, b"", 0) for pair in itertools.islice(itertools.cycle([rooms, rooms[::-1]]), 6)]
    assert len(list(waves(alternating, 4))) == 6


def test_ids_say_where_they_were_made() -> None:
    assert made_together("06882437773401", "06882437773405", 4)
    assert not made_together("06882437773401", "06882437773402", 4)
    assert made_together("06882437773401", "06882437773402", 1)
