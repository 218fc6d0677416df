"""The log of a room: a contiguous stretch, bounded, in which members are cursors."""

from __future__ import annotations

import pytest

from wsapp.core.events import Lane, Placed, Publication
from wsapp.core.room_log import MAX_BYTES, MAX_ITEMS, TRIMMED, RoomLog


def publication(seq: int, size: int = 2) -> Publication:
    return Publication(f"{seq}", 0, 5, "", Lane.LOG, "", "built", (Placed("task:1", seq, "e"),), b"x" * size)


def filled(first: int, last: int, size: int = 2, special: tuple[int, ...] = ()) -> RoomLog:
    log = RoomLog()
    log.reset(first - 1)
    for seq in range(first, last + 1):
        log.append(publication(seq, size), seq, 0.0, special=seq in special)
    return log


def test_an_empty_log_stands_at_its_head() -> None:
    log = RoomLog()
    log.reset(7)
    assert (log.head, log.first) == (7, 8)
    assert log.covers(7) and not log.covers(6) and not log.covers(8)
    assert log.after(3, 7) == []
    with pytest.raises(IndexError):
        log.at(7)


def test_it_gives_what_follows_a_cursor() -> None:
    log = filled(5, 9)
    assert [entry.seq for entry in log.after(6, 8)] == [7, 8]
    assert [entry.seq for entry in log.after(0, 6)] == [5, 6]
    assert log.at(9).seq == 9 and log.at(5).seq == 5
    assert [log.covers(seq) for seq in (3, 4, 9, 10)] == [False, True, True, False]


def test_only_the_next_one_can_be_added() -> None:
    with pytest.raises(ValueError, match="9 does not follow 7"):
        filled(5, 7).append(publication(9), 9, 0.0)


def test_it_is_bounded_in_items_and_bytes() -> None:
    many = filled(1, MAX_ITEMS + 1)
    assert MAX_ITEMS - TRIMMED <= len(many.after(0, many.head)) <= MAX_ITEMS
    assert many.first == TRIMMED + 1
    large = filled(1, 100, MAX_BYTES // 20)
    assert sum(len(entry.publication.body) for entry in large.after(0, 100)) <= MAX_BYTES
    assert large.head == 100
    huge = filled(1, 3, MAX_BYTES + 1)
    assert [entry.seq for entry in huge.after(0, 3)] == [3], "the newest is always there"


def test_special_ones_are_found_until_they_are_let_go() -> None:
    log = filled(1, 10, special=(2, 7))
    assert [log.next_special(seq) for seq in (0, 1, 2, 6, 7)] == [2, 2, 7, 7, 0]
    log = filled(1, MAX_ITEMS + 1, special=(2, 70, MAX_ITEMS))
    assert log.next_special(0) == 70


def test_members_at_one_place_share_the_start_until_something_comes() -> None:
    log = filled(1, 4)
    start = log.start(2)
    assert log.start(2) is start and log.start(3) is not start
    log.append(publication(5), 5, 0.0)
    assert log.start(2) is not start
