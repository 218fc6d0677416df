"""Throttling: the limit is never passed, what is under it does not wait, nothing disappears."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsapp.core.backlog import Batch, Shed, Waiting
from wsapp.core.events import Lane
from wsapp.core.throttle import Bucket, EventThrottler, UserQueue
from wsapp.errors import ErrorCode, PayloadError, RequestError


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Frames:
    """What `on_emit` and `on_shed` were told."""

    def __init__(self, throttler: EventThrottler) -> None:
        self.frames: list[tuple[str, str, list[Batch]]] = []
        self.sheds: list[tuple[str, str, list[Shed]]] = []
        throttler.on_emit(lambda user, receiver, batches: self.frames.append((user, receiver, batches)))
        throttler.on_shed(lambda user, receiver, sheds: self.sheds.append((user, receiver, sheds)))

    def items(self, receiver: str = "") -> list[object]:
        return [waiting.item for _, to, batches in self.frames if to == receiver
                for batch in batches for waiting in batch.waits]


class Reader:
    """A client that reads, or does not."""

    open, far_behind = True, False

    def reads(self) -> bool:
        return self.open

    def lag(self, size: int) -> bool:
        assert size > 0
        return self.far_behind


Make = Callable[..., tuple[EventThrottler, Frames]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Make:
    def throttler_and_frames(**limits: Any) -> tuple[EventThrottler, Frames]:
        throttler = EventThrottler(clock=clock, **limits)
        return throttler, Frames(throttler)
    return throttler_and_frames


def thought(number: int, agent: str = "a") -> dict[str, object]:
    return {"agentId": agent, "thought": str(number)}


def wait(seq: int, *, room: str = "agent:1", entity: str = "1", since: float = 1000.0) -> Waiting:
    return Waiting("agent-thought", 5, Lane.LOG, entity, room, seq, str(seq), seq, 10, since)


def run_for(throttler: EventThrottler, clock: Clock, seconds: float, step: float = 0.1) -> None:
    for _ in range(round(seconds / step)):
        clock.now += step
        throttler.flush(clock.now)


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (1, 1), (10, 10), (15, 15), (100, 100)])
def test_default_burst(rate: float, burst: int) -> None:
    bucket = Bucket(rate)
    assert bucket.burst == burst
    assert [bucket.admit(5.0) for _ in range(burst + 1)] == [True] * burst + [False]
    assert bucket.next(5.0) == pytest.approx(5.0 + 1 / rate)
    assert bucket.admit(bucket.next(5.0))


@pytest.mark.parametrize("rate", [0, math.inf])
def test_no_limit(rate: float) -> None:
    bucket = Bucket(rate)
    assert all(bucket.admit(0.0) for _ in range(10_000))
    assert bucket.next(0.0) == 0.0 and bucket.is_full(0.0)


@pytest.mark.parametrize(("rate", "burst"), [(-1, None), (math.nan, None), (1, 0.5), (1, math.nan)])
def test_bad_rates(rate: float, burst: float | None) -> None:
    with pytest.raises(ValueError):
        Bucket(rate, burst)


def worst_excess(times: list[float], rate: float, burst: float) -> float:
    """The most by which any window [i, j] has more than burst + rate * T."""
    return max(((j - i + 1) - (burst + rate * (times[j] - times[i] + 2e-6))
                for i in range(len(times)) for j in range(i, len(times))), default=-1.0)


@pytest.mark.parametrize("rate", [-1.0, 5e-324, 0.009, math.nan])
def test_a_rate_whose_interval_is_no_number_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Bucket(rate)
    with pytest.raises(ValueError, match="rate"):
        Bucket(1.0).retune(0.0, rate)


@settings(max_examples=150, deadline=None)
@given(st.floats(0.1, 500), st.none() | st.floats(1, 50), st.lists(st.floats(0, 0.7) | st.just(0.0), max_size=150))
def test_no_window_has_more_than_the_limit(rate: float, burst: float | None, gaps: list[float]) -> None:
    bucket = Bucket(rate, burst)
    admitted = [now for now in accumulate(gaps, initial=100.0) if bucket.admit(now)]
    assert admitted[0] == 100.0
    assert worst_excess(admitted, rate, bucket.burst) <= 1e-6


@settings(max_examples=100, deadline=None)
@given(st.floats(0.1, 100), st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.5, 2.0, 10.0, 15.0])), max_size=80))
def test_changing_the_rate_gains_no_tokens(first: float, steps: list[tuple[float, float]]) -> None:
    bucket, now, admitted, allowed, rate = Bucket(first), 0.0, 0, max(1.0, first), first
    highest = max([max(1.0, first), *(max(1.0, rate) for _, rate in steps)])
    for gap, new_rate in steps:
        now += gap
        allowed += rate * (gap + 2e-6)
        while bucket.admit(now):
            admitted += 1
        bucket.retune(now, new_rate)
        rate = new_rate
    assert admitted <= allowed + (highest - max(1.0, first)) + 1e-6


def test_one_decision_and_one_token_per_event() -> None:
    user = UserQueue(1, 2)
    assert [user.admits("a", 0.0) for _ in range(5)] == [True] * 5
    assert user.admits("b", 0.0) and not user.admits("c", 0.0)
    assert not user.admits("c", 50.0)  # the answer for an event does not change
    assert user.admits("d", 50.0)
    assert user.events_sent == 3


def test_nothing_overtakes_what_waits(make: Make, clock: Clock) -> None:
    throttler, _ = make(rate=10)
    throttler.defer("u", "tab", wait(1))
    assert not throttler.user("u").admits("x", clock.now)
    throttler.flush(clock.now)
    assert throttler.user("u").admits("y", clock.now)


def test_under_the_rate_events_leave_at_once(make: Make, clock: Clock) -> None:
    throttler, frames = make()
    for number in range(10):
        throttler.enqueue("u", "agent-thought", thought(number))
        assert len(frames.frames) == number + 1
    assert throttler.next_flush is None
    throttler.enqueue("u", "agent-thought", thought(10))
    assert (len(frames.frames), throttler.get_queue_depth("u"), throttler.get_queue_depth()) == (10, 1, 1)
    assert throttler.next_flush == pytest.approx(clock.now + 0.1)
    assert throttler.get_events_sent("u") == throttler.get_events_sent() == 10


@pytest.mark.parametrize("rate", [0.5, 1, 3, 10, 15, 33])
def test_any_rate_is_kept_and_used(make: Make, clock: Clock, rate: float) -> None:
    throttler, frames = make(rate=rate)
    for number in range(1000):
        throttler.enqueue("u", "x" + str(number), {"n": number})
    run_for(throttler, clock, 20)
    burst = max(1, rate)
    assert burst + rate * 20 - 1 <= len(frames.frames) <= burst + rate * 20
    assert frames.items() == [{"n": number} for number in range(len(frames.frames))]


def test_a_backlog_of_one_agent_is_one_frame_and_of_a_task_its_latest(make: Make, clock: Clock) -> None:
    throttler, frames = make(rate=1)
    throttler.enqueue("u", "x", {})
    for number in range(5):
        throttler.enqueue("u", "agent-thought", thought(number, "a"))
        throttler.enqueue("u", "agent-thought", thought(number, "b"))
        throttler.enqueue("u", "task-update", {"taskId": "t1", "progress": number})
        throttler.enqueue("u", "task-update", {"taskId": "t2", "progress": number})
    frames.frames.clear()
    run_for(throttler, clock, 5, 0.5)
    batches = [batches for _, _, batches in frames.frames]
    assert [len(frame) for frame in batches] == [1, 1, 1, 1]
    assert {(frame[0].entity, len(frame[0].waits), frame[0].merged) for frame in batches} == {
        ("a", 5, 0), ("b", 5, 0), ("t1", 1, 4), ("t2", 1, 4)}
    assert throttler.next_flush is None


def test_critical_bypasses_and_spends_nothing(make: Make) -> None:
    throttler, frames = make(rate=1)
    for number in range(3):
        throttler.enqueue("u", "x", {"n": number})
    for priority in (9, 10):
        throttler.enqueue("u", "alarm", {"p": priority}, priority)
    assert frames.items() == [{"n": 0}, {"p": 9}, {"p": 10}]
    assert throttler.get_queue_depth("u") == 2
    assert frames.frames[-1][2][0].lane is Lane.CRITICAL


def test_one_token_pays_a_frame_for_each_receiver(make: Make, clock: Clock) -> None:
    throttler, frames = make(rate=1)
    throttler.register("u", "plain")
    throttler.register("u", "sdk", merge=True)
    for number in range(4):
        throttler.enqueue("u", f"x{number}", {"n": number})
    assert frames.items("plain") == frames.items("sdk") == [{"n": 0}]
    run_for(throttler, clock, 1)
    assert frames.items("plain") == [{"n": 0}, {"n": 1}]
    assert frames.items("sdk") == [{"n": number} for number in range(4)]
    assert [len(batches) for _, receiver, batches in frames.frames if receiver == "sdk"] == [1, 3]
    run_for(throttler, clock, 2)
    assert frames.items("plain") == frames.items("sdk")


def test_shedding_is_told_and_counted(make: Make) -> None:
    throttler, frames = make(rate=1, max_items=2)
    for number in range(6):
        throttler.enqueue("u", "x", {"n": number})
    assert [(user, receiver, [(shed.first, shed.last, shed.reason) for shed in sheds])
            for user, receiver, sheds in frames.sheds] == [
        ("u", "", [(2, 2, "items")]), ("u", "", [(3, 3, "items")]), ("u", "", [(4, 4, "items")])]
    assert throttler.user("u").shed == 3 and throttler.get_queue_depth("u") == 2


def test_an_event_too_large_to_wait_leaves_no_backlog(make: Make) -> None:
    throttler, frames = make(rate=1, max_bytes=50)
    throttler.enqueue("u", "x", {})
    throttler.enqueue("u", "x", {"text": "y" * 100})
    assert frames.sheds[0][2][0].reason == "oversize" and throttler.next_flush is None


def test_get_queue_and_clear_queue(make: Make, clock: Clock) -> None:
    throttler, _ = make(rate=1)
    for number in range(3):
        throttler.enqueue("u", "x", {"n": number}, 3)
    assert throttler.get_queue("u")[0] == {
        "receiver": "", "type": "x", "data": {"n": 1}, "priority": 3, "room": "", "seq": 2, "id": "2",
        "since": clock.now, "merged": 0}
    assert [entry["data"] for entry in throttler.clear_queue("u")] == [{"n": 1}, {"n": 2}]
    assert throttler.get_queue("u") == throttler.clear_queue("u") == throttler.get_queue("nobody") == []
    assert throttler.get_queue_depth("nobody") == throttler.get_events_sent("nobody") == 0
    assert throttler.clear_queue("nobody") == [] and throttler.next_flush is None


def test_shutdown_returns_what_waits_and_takes_no_more(make: Make, clock: Clock) -> None:
    throttler, frames = make(rate=1)
    for user in ("u", "v"):
        for number in range(2):
            throttler.enqueue(user, "x", {"n": number})
    left = throttler.shutdown()
    assert {user: [entry["data"] for entry in entries] for user, entries in left.items()} == {
        "u": [{"n": 1}], "v": [{"n": 1}]}
    assert throttler.shutdown() == {}
    with pytest.raises(RequestError) as caught:
        throttler.enqueue("u", "x", {})
    assert caught.value.code is ErrorCode.DRAINING
    with pytest.raises(RequestError):
        throttler.defer("u", "", wait(1))
    run_for(throttler, clock, 3)
    assert len(frames.frames) == 2


@pytest.mark.parametrize(("data", "priority"), [
    ({"x": math.nan}, 5), ({"x": object()}, 5), ({"x": "\ud800"}, 5), ({}, 11), ({}, -1)])
def test_bad_events_are_refused(make: Make, data: dict[str, object], priority: int) -> None:
    throttler, frames = make()
    with pytest.raises(PayloadError):
        throttler.enqueue("u", "x", data, priority)
    assert frames.frames == []


@pytest.mark.parametrize("limits", [{"rate": -1}, {"flush_interval": 0}, {"max_items": 0}, {"max_bytes": 0}])
def test_bad_limits_are_refused_when_made(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        EventThrottler(**limits)  # type: ignore[arg-type]


def test_a_user_has_a_rate_of_its_own(make: Make, clock: Clock) -> None:
    throttler, frames = make(rate=10)
    assert throttler.user("slow", 1).rate == 1 and throttler.user("fast").rate == 10
    throttler.enqueue("slow", "x", {})
    throttler.user("slow", 10)
    assert throttler.user("slow") is throttler.user("slow", 10)
    assert throttler.user("slow").burst == 10
    for number in range(12):
        throttler.enqueue("slow", f"x{number}", {})
    assert len(frames.frames) == 10


def test_forget_returns_what_waited(make: Make, clock: Clock) -> None:
    throttler, frames = make()
    throttler.register("u", "tab")
    throttler.register("u", "other")
    throttler.defer("u", "tab", wait(7))
    throttler.defer("u", "other", wait(8))
    assert throttler.user("u").behind["tab"].sources["agent:1"].backlog.low == 7
    assert [waiting.seq for waiting in throttler.forget("u", "tab")] == [7]
    assert throttler.next_flush is not None and throttler.forget("u", "tab") == [] == throttler.forget("nobody", "tab")
    assert [waiting.seq for waiting in throttler.forget("u", "other")] == [8]
    assert throttler.next_flush is None
    throttler.flush()
    assert frames.frames == []


def test_reconnecting_gains_no_tokens_and_idle_users_go(make: Make, clock: Clock) -> None:
    throttler, frames = make(rate=10)
    for attempt in range(5):
        throttler.register("u", f"tab{attempt}")
        for number in range(10):
            throttler.enqueue("u", "x", {"n": number})
        throttler.forget("u", f"tab{attempt}")
        throttler.user(f"other{attempt}")
    assert len(frames.frames) == 10
    assert "u" in throttler._users
    clock.now += 60
    throttler.user("one more")
    assert "u" not in throttler._users and not throttler._idle
    assert throttler.get_events_sent() == 10


def test_a_user_who_came_back_is_not_pruned(make: Make, clock: Clock) -> None:
    throttler, _ = make()
    throttler.register("u", "tab")
    throttler.forget("u", "tab")
    user = throttler.user("u")
    throttler.defer("u", "", wait(1))
    clock.now += 60
    throttler.user("new")
    assert throttler.user("u") is user and throttler.get_queue_depth("u") == 1


def test_a_failing_callback_keeps_nobody_waiting(make: Make, clock: Clock) -> None:
    throttler, frames = make(rate=1)
    for user in ("u", "v"):
        throttler.defer(user, "", wait(1))

    def fail(user_id: str, receiver: str, batches: list[Batch]) -> None:
        raise OSError(user_id)

    assert throttler.on_emit(fail) is fail

    with pytest.raises(ExceptionGroup) as caught:
        throttler.flush()
    assert [str(error) for error in caught.value.exceptions] == ["u", "v"]
    assert [user for user, _, _ in frames.frames] == ["u", "v"]
    with pytest.raises(ExceptionGroup):
        throttler.enqueue("w", "x", {})


def test_a_callback_may_forget_another_receiver(make: Make, clock: Clock) -> None:
    throttler, frames = make()
    for receiver in ("one", "two"):
        throttler.register("u", receiver)
        throttler.defer("u", receiver, wait(1))
    throttler.on_emit(lambda user_id, receiver, batches: throttler.forget(user_id, "two"))
    throttler.flush()
    assert [receiver for _, receiver, _ in frames.frames] == ["one"]
    assert throttler.next_flush is None


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([0.5, 1.0, 7.0, 15.0, 40.0]), st.integers(1, 30),
       st.lists(st.tuples(st.floats(0, 0.5), st.sampled_from(["agent-thought", "task-update", "x"]),
                          st.integers(0, 3), st.integers(0, 8)), max_size=120))
def test_frames_never_exceed_the_rate_and_every_event_is_accounted_for(
        rate: float, max_items: int, events: list[tuple[float, str, int, int]]) -> None:
    clock = Clock()
    throttler = EventThrottler(rate, clock=clock, max_items=max_items)
    frames = Frames(throttler)
    times: list[float] = []
    throttler.on_emit(lambda *_: times.append(clock.now))
    flushed = clock.now
    for gap, event, entity, priority in events:
        clock.now += gap
        throttler.enqueue("u", event, {"agentId": str(entity), "taskId": str(entity)}, priority)
        if clock.now - flushed >= 0.1:
            flushed = clock.now
            throttler.flush()
    assert worst_excess(times, rate, max(1, rate)) <= 1e-6
    waits = [waiting for _, _, batches in frames.frames for batch in batches for waiting in batch.waits]
    sent = sum(1 + waiting.merged for waiting in waits)
    shed = sum(told.count for _, _, sheds in frames.sheds for told in sheds)
    left = sum(1 + int(str(entry["merged"])) for entry in throttler.get_queue("u"))
    assert sent + shed + left == len(events)
    assert throttler.get_events_sent("u") == len(waits)
    assert throttler.user("u").shed == shed


def test_release_sends_all_that_waits_for_one_receiver(make: Make, clock: Clock) -> None:
    throttler, frames = make(rate=1)
    link = Reader()
    for receiver in ("leaves", "stays"):
        throttler.register("u", receiver, reader=link)
    for number in range(6):
        throttler.enqueue("u", "agent-thought", thought(number, agent=str(number % 2)))
    throttler.release("u", "leaves")
    assert len(frames.items("leaves")) == 6
    assert len(frames.items("stays")) == 1
    link.open = False
    throttler.release("u", "stays")
    throttler.release("nobody", "x")
    assert throttler.get_queue_depth("u") == 5, "one that does not read keeps it for a replay"
    link.open = True
    throttler.release("u", "stays")
    assert throttler.next_flush is None


def test_of_several_events_as_many_leave_as_there_are_tokens() -> None:
    queue = UserQueue(rate=10, burst=5)
    assert queue.admits_some("a", 4, now=0.0) == 4
    assert queue.admits_some("a", 4, now=0.0) == 4, "the same four for another receiver"
    assert queue.admits_some("b", 2, now=0.0) == 1
    assert queue.admits_some("b", 2, now=0.0) == 1
    assert not queue.admits("c", now=0.0)
    assert queue.events_sent == 5


def test_several_cost_what_they_cost_one_by_one() -> None:
    together, single = UserQueue(rate=3, burst=7), UserQueue(rate=3, burst=7)
    for number in range(200):
        now = number * 0.31
        granted = together.admits_some(f"{number}+2", 2, now)
        assert granted == single.admits(f"{number}a", now) + single.admits(f"{number}b", now)
        assert together.next(now) == pytest.approx(single.next(now))
    assert together.events_sent == single.events_sent > 100


def test_a_client_that_does_not_read_gets_states_only(make: Make, clock: Clock) -> None:
    throttler, frames = make(rate=1)
    link = Reader()
    throttler.register("u", "tab", reader=link)
    throttler.enqueue("u", "x", {})
    link.open = False
    for number in range(3):
        throttler.enqueue("u", "task-update", {"taskId": "t", "progress": number})
        throttler.enqueue("u", "agent-thought", thought(number))
    assert [entry["type"] for entry in throttler.get_queue("u")] == ["task-update", "agent-thought"] + 2 * [
        "agent-thought"]
    link.far_behind = True
    throttler.enqueue("u", "agent-thought", thought(3))
    assert [entry["type"] for entry in throttler.get_queue("u")] == ["task-update"]
    assert sum(shed.count for _, _, sheds in frames.sheds for shed in sheds) == 4
    assert {shed.reason for _, _, sheds in frames.sheds for shed in sheds} == {"snapshots"}
