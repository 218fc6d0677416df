"""Rooms over partitions: the same everywhere."""

from __future__ import annotations

from wsapp.core.partitions import partition_of, room_in, spread


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

