"""What waits for a receiver: bounded, reported when shed, ordered, fair, and shared by those at the same place."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsapp.core.backlog import (
    EMPTY,
    SHED_BYTES,
    SHED_ITEMS,
    SHED_OVERSIZE,
    SHED_SNAPSHOTS,
    Backlog,
    Batch,
    Shed,
    Waiting,
    classify,
    coalesce,
)
from wsapp.core.events import MAX_PRIORITY, TASK_UPDATE, THOUGHT, Lane
from wsapp.core.throttle import Direct, Receiver


class Lanes:
    """One receiver that is behind in several rooms; each event is gathered as it comes."""

    def __init__(self, max_items: int = 1000, max_bytes: int = 1_000_000) -> None:
        self.receiver, self.limits = Receiver(merges=True), (max_items, max_bytes)

    def put(self, waiting: Waiting) -> list[Shed]:
        source = self.receiver.sources.setdefault(waiting.room, Direct())
        assert isinstance(source, Direct)
        source.put(waiting)
        sheds, count = self.receiver.gather(*self.limits)
        assert count == 1
        self.receiver.forget_empty()
        return sheds

    def take(self, now: float, groups: int = 1, max_items: int = 100) -> list[Batch]:
        batches: list[Batch] = []
        self.receiver.merges = False
        while len(batches) < groups and max_items > 0 and self.receiver.sources:
            batches += self.receiver.take(now, max_items)
            max_items -= len(batches[-1].waits)
        return batches

    @property
    def depth(self) -> int:
        return self.receiver.depth

    @property
    def bytes(self) -> int:
        return sum(source.backlog.bytes for source in self.receiver.sources.values())

    def low_water(self, room: str) -> int | None:
        source = self.receiver.sources.get(room)
        return (source.backlog.low or None) if source is not None else None

    def waiting(self) -> list[Waiting]:
        return self.receiver.waiting()


def wait(seq: int, *, room: str = "agent:1", entity: str = "1", lane: Lane = Lane.LOG, priority: int = 5,
         event: str = THOUGHT, size: int = 10, since: float = 0.0) -> Waiting:
    return Waiting(event, priority, lane, entity, room, seq, f"id{seq}", {"n": seq}, size, since)


def seqs(batches: list[Batch]) -> list[list[int]]:
    return [[waiting.seq for waiting in batch.waits] for batch in batches]


@pytest.mark.parametrize(("event", "data", "expected"), [
    (TASK_UPDATE, {"taskId": "t1"}, (Lane.STATE, "t1")),
    (TASK_UPDATE, {"taskId": 7}, (Lane.STATE, "7")),
    (TASK_UPDATE, {}, (Lane.LOG, TASK_UPDATE)),
    (TASK_UPDATE, {"taskId": ""}, (Lane.LOG, TASK_UPDATE)),
    (TASK_UPDATE, {"taskId": True}, (Lane.LOG, TASK_UPDATE)),
    (THOUGHT, {"agentId": "a"}, (Lane.LOG, "a")),
    (THOUGHT, {"agentId": "a", "delta": True, "thoughtId": "h"}, (Lane.APPEND, "h")),
    (THOUGHT, {"agentId": "a", "delta": True}, (Lane.LOG, "a")),
    (THOUGHT, {"agentId": "a", "delta": 1, "thoughtId": "h"}, (Lane.LOG, "a")),
    (THOUGHT, "text", (Lane.LOG, THOUGHT)),
    ("built", {"taskId": "t1"}, (Lane.LOG, "built")),
])
def test_classify(event: str, data: object, expected: tuple[Lane, str]) -> None:
    assert classify(event, data) == expected


def test_log_of_one_agent_leaves_as_one_batch_and_of_two_as_two() -> None:
    lanes = Lanes()
    for seq in range(1, 7):
        assert lanes.put(wait(seq, entity="a" if seq % 2 else "b")) == []
    assert seqs(lanes.take(0.0)) == [[1, 3, 5]]
    assert seqs(lanes.take(0.0)) == [[2, 4, 6]]
    assert lanes.take(0.0) == [] and lanes.depth == lanes.bytes == 0


def test_states_of_different_tasks_never_merge() -> None:
    lanes = Lanes()
    for seq in range(1, 9):
        lanes.put(wait(seq, lane=Lane.STATE, event=TASK_UPDATE, room="project:1", entity=f"t{seq % 2}"))
    assert lanes.depth == 2
    batches = lanes.take(0.0, groups=10)
    assert [(batch.entity, batch.merged, batch.waits[0].item) for batch in batches] == [
        ("t1", 3, {"n": 7}), ("t0", 3, {"n": 8})]


def test_states_of_one_entity_in_two_rooms_or_two_events_stay_apart_and_in_order() -> None:
    lanes = Lanes()
    lanes.put(wait(1, lane=Lane.STATE, room="task:1"))
    lanes.put(wait(1, lane=Lane.STATE, room="project:1"))
    lanes.put(wait(2, lane=Lane.STATE, room="task:1", event="other"))
    lanes.put(wait(3, lane=Lane.STATE, room="task:1"))
    taken = [(batch.room, batch.event, batch.waits[0].seq) for batch in lanes.take(0.0, groups=9)]
    assert [entry for entry in taken if entry[0] == "task:1"] == [
        ("task:1", THOUGHT, 1), ("task:1", "other", 2), ("task:1", THOUGHT, 3)]
    assert ("project:1", THOUGHT, 1) in taken


def test_merged_state_keeps_its_age_and_the_higher_priority() -> None:
    lanes = Lanes()
    lanes.put(wait(1, lane=Lane.STATE, priority=7, since=0.0))
    lanes.put(wait(2, lane=Lane.STATE, priority=1, since=3.0, size=30))
    assert (lanes.depth, lanes.bytes) == (1, 30)
    waiting = lanes.take(3.0)[0].waits[0]
    assert (waiting.seq, waiting.id, waiting.item, waiting.priority, waiting.since, waiting.low) == (
        2, "id2", {"n": 2}, 7, 0.0, 1)


def test_append_keeps_all_deltas_in_order() -> None:
    lanes = Lanes()
    for seq in range(1, 5):
        lanes.put(wait(seq, lane=Lane.APPEND, entity="h"))
    batch, = lanes.take(0.0)
    assert (batch.lane, batch.merged, [waiting.seq for waiting in batch.waits]) == (Lane.APPEND, 0, [1, 2, 3, 4])


def test_a_batch_holds_one_event_name() -> None:
    lanes = Lanes()
    for seq, event in enumerate(["x", "x", "y", "x"], 1):
        lanes.put(wait(seq, event=event))
    assert [seqs(lanes.take(0.0))[0] for _ in range(3)] == [[1, 2], [3], [4]]


def test_max_items_counts_over_all_groups() -> None:
    lanes = Lanes()
    for seq in range(1, 9):
        lanes.put(wait(seq, entity=str(seq % 2)))
    assert seqs(lanes.take(0.0, groups=9, max_items=5)) == [[1, 3, 5, 7], [2]]
    assert seqs(lanes.take(0.0, groups=9, max_items=5)) == [[4, 6, 8]]


def test_higher_priority_first_and_an_urgent_one_pulls_its_entity() -> None:
    lanes = Lanes()
    lanes.put(wait(1, entity="low", priority=1))
    lanes.put(wait(2, entity="mid", priority=5))
    lanes.put(wait(3, entity="low", priority=8))
    assert seqs(lanes.take(0.0, groups=9)) == [[1, 3], [2]]


def test_what_is_left_of_a_group_falls_back_to_its_own_priority() -> None:
    lanes = Lanes()
    lanes.put(wait(1, entity="a", priority=8))
    lanes.put(wait(2, entity="a", priority=1))
    lanes.put(wait(3, entity="b", priority=5))
    assert seqs(lanes.take(0.0, max_items=1)) == [[1]]
    assert seqs(lanes.take(0.0, groups=9)) == [[3], [2]]


def test_rooms_take_turns() -> None:
    lanes = Lanes()
    for seq in range(1, 5):
        lanes.put(wait(seq, room="agent:noisy", entity=f"e{seq}"))
    lanes.put(wait(1, room="agent:quiet"))
    lanes.put(wait(2, room="agent:quiet", entity="2"))
    rooms = [batch.room.removeprefix("agent:") for batch in lanes.take(0.0, groups=9)]
    assert rooms == ["noisy", "quiet", "noisy", "quiet", "noisy", "noisy"]


def test_rooms_take_turns_once_all_have_aged_however_old_they_are() -> None:
    lanes = Lanes()
    for seq in range(1, 50):
        lanes.put(wait(seq, room="agent:noisy", entity=f"e{seq}", since=0.0))
    lanes.put(wait(1, room="agent:quiet", since=100.0))
    later = 100.0 + MAX_PRIORITY + 1
    assert "agent:quiet" in [batch.room for batch in lanes.take(later, groups=2)]


@pytest.mark.parametrize("flood_rooms", [1, 3])
def test_nothing_starves_under_a_constant_flood(flood_rooms: int) -> None:
    lanes = Lanes()
    lanes.put(wait(1, room="agent:meek", priority=0))
    number, now, flushes = 0, 0.0, 0
    while True:
        flushes += 1
        assert flushes <= 10 * (MAX_PRIORITY + 1) + flood_rooms + 1
        for _ in range(3):
            number += 1
            lanes.put(wait(number, room=f"agent:{number % flood_rooms}", entity=f"e{number}", priority=8, since=now))
        if lanes.take(now)[0].room == "agent:meek":
            break
        now += 0.1


def test_full_sheds_the_oldest_of_the_lowest_priority() -> None:
    lanes = Lanes(max_items=3)
    lanes.put(wait(1, priority=5))
    lanes.put(wait(2, priority=1))
    lanes.put(wait(3, priority=1))
    assert lanes.put(wait(4, priority=8)) == [Shed("agent:1", 2, 2, 1, SHED_ITEMS, 1)]
    assert lanes.put(wait(5, priority=0)) == [Shed("agent:1", 5, 5, 1, SHED_ITEMS, 0)]
    assert seqs(lanes.take(0.0)) == [[1, 3, 4]]


def test_shedding_by_bytes_joins_neighbours() -> None:
    lanes = Lanes(max_bytes=100)
    for seq in range(1, 11):
        lanes.put(wait(seq))
    assert lanes.put(wait(11, size=35)) == [Shed("agent:1", 1, 4, 4, SHED_BYTES, 5)]
    assert lanes.bytes == 95 and lanes.low_water("agent:1") == 5
    assert lanes.put(wait(12, size=101)) == [Shed("agent:1", 12, 12, 1, SHED_OVERSIZE, 5)]
    assert lanes.depth == 7


def test_a_state_that_grows_may_shed_others_and_counts_as_fresh() -> None:
    lanes = Lanes(max_bytes=100)
    lanes.put(wait(1, lane=Lane.STATE, entity="t", size=40))
    lanes.put(wait(2, size=50))
    assert lanes.put(wait(3, lane=Lane.STATE, entity="t", size=60)) == [Shed("agent:1", 2, 2, 1, SHED_BYTES, 5)]
    assert seqs(lanes.take(0.0)) == [[3]]


def test_shedding_a_state_tells_all_it_stood_for() -> None:
    lanes = Lanes(max_items=1)
    for seq in (1, 2, 4, 7, 8):
        lanes.put(wait(seq, lane=Lane.STATE))
    sheds = lanes.put(wait(9, entity="other", priority=6))
    assert [(shed.first, shed.last, shed.count) for shed in sheds] == [(1, 2, 2), (4, 4, 1), (7, 8, 2)]


def test_the_numbers_a_state_stands_for_are_bounded_and_their_count_exact() -> None:
    lanes = Lanes(max_items=1)
    for seq in range(1, 2001, 2):
        lanes.put(wait(seq, lane=Lane.STATE))
    sheds = lanes.put(wait(3000, entity="other", priority=6))
    assert len(sheds) < 40
    assert sum(shed.count for shed in sheds) == 1000
    assert (sheds[0].first, sheds[-1].last) == (1, 1999)


def test_told() -> None:
    assert Shed("task:1", 3, 5, 3, SHED_ITEMS, 7).told() == {
        "room": "task:1", "from": 3, "to": 5, "count": 3, "reason": "items", "worstPriority": 7}


def test_coalesce_joins_only_contiguous_of_one_room_and_reason() -> None:
    def shed(room: str, seq: int, reason: str = SHED_ITEMS, worst: int = 5) -> Shed:
        return Shed(room, seq, seq, 1, reason, worst)
    assert coalesce([shed("a", 1), shed("a", 2, worst=7), shed("a", 4), shed("b", 5), shed("b", 6, SHED_BYTES)]) == [
        Shed("a", 1, 2, 2, SHED_ITEMS, 7), shed("a", 4), shed("b", 5), shed("b", 6, SHED_BYTES)]
    assert coalesce([shed("", 0), shed("", 0)]) == [Shed("", 0, 0, 2, SHED_ITEMS, 5)]


def test_low_water_counts_merged_updates_until_their_successor_leaves() -> None:
    lanes = Lanes()
    room = "agent:1"
    assert lanes.low_water(room) is None
    lanes.put(wait(3, lane=Lane.STATE, entity="t", priority=1))
    for seq in range(4, 8):
        lanes.put(wait(seq, entity="log", priority=6))
    lanes.put(wait(8, lane=Lane.STATE, entity="t", priority=1))
    assert lanes.low_water(room) == 3
    assert seqs(lanes.take(0.0)) == [[4, 5, 6, 7]]
    assert lanes.low_water(room) == 3
    lanes.put(wait(9, entity="log"))
    assert seqs(lanes.take(0.0, max_items=1)) == [[9]]
    assert seqs(lanes.take(0.0)) == [[8]]
    assert lanes.low_water(room) is None


def test_low_water_is_per_room_and_skips_events_in_no_history() -> None:
    lanes = Lanes()
    lanes.put(wait(0, lane=Lane.STATE))
    assert lanes.low_water("agent:1") is None
    lanes.put(wait(5, room="agent:2"))
    assert (lanes.low_water("agent:1"), lanes.low_water("agent:2")) == (None, 5)
    lanes.put(wait(6, lane=Lane.STATE))
    assert lanes.low_water("agent:1") == 6


arrivals = st.tuples(st.sampled_from(["put", "put", "put", "take"]), st.sampled_from(["r1", "r2"]),
                     st.sampled_from(["e1", "e2", "e3"]), st.sampled_from([Lane.STATE, Lane.APPEND, Lane.LOG]),
                     st.integers(0, 10), st.integers(1, 40), st.sampled_from(["x", "y"]),
                     st.floats(0, 2), st.integers(1, 4))


@settings(max_examples=150, deadline=None)
@given(st.lists(arrivals, max_size=120), st.integers(1, 12), st.integers(20, 200))
def test_every_event_is_accounted_for_and_in_order(steps: list[Any], max_items: int, max_bytes: int) -> None:
    lanes = Lanes(max_items, max_bytes)
    numbers: Counter[str] = Counter()
    put = taken = merged = shed = 0
    latest: dict[tuple[str, str, Lane], int] = {}
    now = 0.0
    for action, room, entity, lane, priority, size, event, pause, count in steps:
        now += pause
        if action == "put":
            numbers[room] += 1
            put += 1
            shed += sum(told.count for told in lanes.put(
                wait(numbers[room], room=room, entity=entity, lane=lane, priority=priority, size=size, event=event,
                     since=now)))
        else:
            for batch in lanes.take(now, count, count):
                for waiting in batch.waits:
                    key = (batch.room, batch.entity, batch.lane)
                    assert (waiting.room, waiting.entity, waiting.lane, waiting.event) == (*key, batch.event)
                    assert waiting.low > latest.get(key, 0)
                    latest[key] = waiting.seq
                    taken += 1
                    merged += waiting.merged
        left = lanes.waiting()
        assert len(left) == lanes.depth <= max_items
        assert sum(waiting.size for waiting in left) == lanes.bytes <= max_bytes
        assert put == taken + merged + shed + sum(1 + waiting.merged for waiting in left)
        for known in ("r1", "r2"):
            lows = [waiting.low for waiting in left if waiting.room == known]
            assert lanes.low_water(known) == (min(lows) if lows else None)
    while lanes.depth:
        assert lanes.take(now)
    assert not (lanes.receiver.sources or lanes.bytes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.floats(0, 30)), min_size=1, max_size=40), st.floats(0, 10))
def test_the_first_to_leave_is_the_most_pressing(events: list[tuple[int, float]], pause: float) -> None:
    lanes = Lanes()
    for seq, (priority, since) in enumerate(events, 1):
        lanes.put(wait(seq, entity=str(seq), priority=priority, since=since))
    now = max(since for _, since in events) + pause
    def pressing(priority: int, since: float) -> int:
        return max(priority, min(MAX_PRIORITY, priority + int(now) - int(since)))
    taken = [pressing(batch.waits[0].priority, batch.waits[0].since) for batch in lanes.take(now, groups=99)]
    assert taken == sorted(taken, reverse=True)


def test_receivers_at_the_same_place_share_all_steps() -> None:
    new = [wait(seq, entity=str(seq % 3)) for seq in range(1, 7)]
    start = Backlog()
    first = start.following(new, 100, 1000, key=6)
    assert start.remembered(6) is first and start.remembered(7) is None
    batches, left = first.backlog.take(0.0)
    again, same = first.backlog.take(0.0)
    assert batches is again and left is same
    assert first.backlog.take(0.0, groups=9)[1] is EMPTY


def test_far_behind_only_the_states_stay() -> None:
    new = [wait(1), wait(2, lane=Lane.STATE, event=TASK_UPDATE, entity="t"), wait(3), wait(4, entity="b")]
    found = EMPTY.following(new, 100, 1000).backlog.only_states()
    assert [waiting.seq for waiting in found.backlog.waits] == [2]
    assert found.sheds == (Shed("agent:1", 1, 1, 1, SHED_SNAPSHOTS, 5), Shed("agent:1", 3, 4, 2, SHED_SNAPSHOTS, 5))
    assert found.backlog.only_states() == (found.backlog, (), 0, 0)


def test_a_limit_on_each_room_is_one_on_all_of_them() -> None:
    lanes = Lanes(max_items=4)
    for seq in range(1, 4):
        lanes.put(wait(seq, room="agent:1", entity=str(seq), since=1.0))
    lanes.put(wait(1, room="agent:2", since=2.0))
    assert lanes.put(wait(2, room="agent:2", since=3.0)) == [Shed("agent:1", 1, 1, 1, SHED_ITEMS, 5)]
    assert lanes.depth == 4
