"""What of a long absence is replayed: the newest, what must be acknowledged, and how every task stands."""

from __future__ import annotations

import random

import pytest

from wsapp.core.catch_up import Pace, is_critical, shed_of, thin
from wsapp.core.events import Lane, Placed, Publication

ROOM = "project:p"


def made(seq: int, lane: Lane = Lane.LOG, entity: str = "e", event: str = "x", flags: str = "",
         priority: int = 5) -> Publication:
    return Publication(f"{seq:014x}", 1, priority, flags, lane, entity, event, (Placed(ROOM, seq, "e1"),), b"{}")


def seqs(publications: tuple[Publication, ...]) -> list[int]:
    return [publication.seq(ROOM) for publication in publications]


@pytest.mark.parametrize(("limit", "missed", "exceeded"), [(5, 5, False), (5, 6, True), (0, 10**6, False)])
def test_the_limit(limit: int, missed: int, exceeded: bool) -> None:
    assert Pace(limit).exceeded(missed) is exceeded


def test_the_tail_is_replayed_and_the_rest_skipped() -> None:
    kept, skipped, tail = thin([made(seq) for seq in range(1, 11)], 3)
    assert (seqs(kept), seqs(skipped), seqs(tail)) == ([], [1, 2, 3, 4, 5, 6, 7], [8, 9, 10])


@pytest.mark.parametrize("tail", [0, 10, 11])
def test_a_tail_of_nothing_and_of_everything(tail: int) -> None:
    kept, skipped, newest = thin([made(seq) for seq in range(1, 11)], tail)
    assert (len(kept), len(skipped), len(newest)) == (0, max(0, 10 - tail), min(10, tail))


def test_of_each_task_the_latest_state_is_kept_unless_the_tail_has_a_newer_one() -> None:
    states = [made(seq, Lane.STATE, f"t{seq % 3}", "task-update") for seq in range(1, 10)]
    kept, skipped, tail = thin([*states, made(10), made(11, Lane.STATE, "t0", "task-update")], 2)
    assert (seqs(kept), seqs(tail)) == ([7, 8], [10, 11])
    assert seqs(skipped) == [1, 2, 3, 4, 5, 6, 9]


def test_states_under_different_names_do_not_replace_each_other() -> None:
    kept, _, _ = thin([made(1, Lane.STATE, "t", "task-update"), made(2, Lane.STATE, "t", "other")], 0)
    assert seqs(kept) == [1, 2]


def test_critical_events_are_never_skipped() -> None:
    found = [made(1, flags="c"), made(2), made(3, Lane.CRITICAL, priority=9), made(4)]
    kept, skipped, _ = thin(found, 0)
    assert (seqs(kept), seqs(skipped)) == ([1, 3], [2, 4])
    assert [is_critical(one) for one in found] == [True, False, True, False]


def test_what_is_skipped_is_told_once() -> None:
    shed = shed_of(ROOM, [made(3, priority=2), made(5, priority=7), made(9)])
    assert shed is not None
    assert shed.told() == {"room": ROOM, "from": 3, "to": 9, "count": 3, "reason": "catch-up", "worstPriority": 7}
    assert shed_of(ROOM, []) is None


def test_any_history_is_kept_skipped_or_in_the_tail_and_no_state_is_lost() -> None:
    chance = random.Random(7)
    for _ in range(200):
        found = [made(seq, chance.choice(list(Lane)), chance.choice("abc"), chance.choice("xy"))
                 for seq in range(1, chance.randint(1, 60))]
        kept, skipped, tail = thin(found, chance.randint(0, 70))
        assert sorted(seqs(kept) + seqs(skipped) + seqs(tail)) == seqs(tuple(found))
        assert seqs(kept) == sorted(seqs(kept))
        assert seqs(skipped) == sorted(seqs(skipped))
        sent = {(one.event, one.entity): one for one in (*kept, *tail) if one.lane is Lane.STATE}
        latest = {(one.event, one.entity): one for one in found if one.lane is Lane.STATE}
        assert sent == latest
        assert not any(map(is_critical, skipped))
