"""Shared history reads: one call for many, and nobody sees an older or another page than alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gevent
import pytest

from tests.runtime.world import eventually
from wsapp.backends.memory import MemoryBackend
from wsapp.core.events import Draft, Position
from wsapp.core.ports import HistoryPage, HistoryQuery, Limits
from wsapp.errors import BrokerUnavailable
from wsapp.runtime import reading as module
from wsapp.runtime.reading import SharedReads

ROOM = "agent:a"


class Slow:
    """The memory broker behind a round trip that takes its time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.inner = MemoryBackend(limits).broker
        self.calls: list[list[HistoryQuery]] = []
        self.error: BrokerUnavailable | None = None
        self.now = 0.0
        self.stands: Position | None = None
        self.reads = SharedReads(self, lambda _room: self.stands, lambda: self.now)  # type: ignore[arg-type]

    def publish(self, count: int, room: str = ROOM) -> None:
        self.inner.publish([Draft("x", (room,), str(number).encode(), 1) for number in range(count)])

    def read(self, queries: Sequence[HistoryQuery]) -> list[HistoryPage]:
        self.calls.append(list(queries))
        if self.error is not None:
            gevent.sleep(0.01)
            raise self.error
        pages = self.inner.read(queries)
        gevent.sleep(0.002)
        return pages

    def seqs(self, since: int | None, limit: int = 1000, room: str = ROOM, **more: Any) -> list[int]:
        [page] = self.reads.read([HistoryQuery(room, since, limit, **more)])
        return [publication.seq(room) for publication in page.publications]

    def epoch(self) -> str:
        return self.inner.heads([ROOM])[ROOM].epoch

    def together(self, *since: int, limit: int = 1000) -> list[list[int]]:
        running = [gevent.spawn(self.seqs, one, limit) for one in since]
        gevent.joinall(running)
        return [one.get() for one in running]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    monkeypatch.setattr(module, "GATHER", 0.0)
    return Slow()


def test_a_hundred_identical_reads_are_two_calls(slow: Slow) -> None:
    """The first leaves alone; all that come while it is under way share the second."""
    slow.publish(20)
    assert slow.together(*[5] * 100) == [list(range(6, 21))] * 100
    assert len(slow.calls) == 2
    assert [len(call) for call in slow.calls] == [1, 1]


def test_the_earliest_position_serves_the_later_ones(slow: Slow) -> None:
    slow.publish(50)
    assert slow.together(0, 30, 10, 49, 50) == [list(range(since + 1, 51)) for since in (0, 30, 10, 49, 50)]
    assert sum(map(len, slow.calls)) <= 2


def test_one_that_begins_behind_the_page_of_another_asks_for_its_own(slow: Slow) -> None:
    slow.publish(50)
    slow.together(0, limit=1)
    slow.reads.forget()
    sinces = (0, 0, 5, 9, 10, 45)
    assert slow.together(*sinces, limit=10) == [list(range(since + 1, min(51, since + 11))) for since in sinces]
    assert [(query.since, query.limit) for query in slow.calls[-1]] == [(0, 19), (10, 10), (45, 10)]


def test_what_was_just_read_is_not_read_again(slow: Slow) -> None:
    slow.publish(40)
    assert slow.seqs(0) == list(range(1, 41))
    slow.publish(3)
    assert slow.seqs(20) == list(range(21, 44))
    assert slow.calls[-1] == [HistoryQuery(ROOM, 40, 1000)]
    assert slow.seqs(5, limit=10) == list(range(6, 16))
    assert slow.calls[-1][0].limit == 0  # only where the room stands


def test_catching_up_needs_no_call_while_the_worker_is_no_further(slow: Slow) -> None:
    slow.publish(10)
    slow.seqs(0)
    slow.stands = Position(slow.epoch(), 10)
    calls = len(slow.calls)
    [page] = slow.reads.catch_up([HistoryQuery(ROOM, 7, 1000)])
    assert ([one.seq(ROOM) for one in page.publications], page.head.seq) == ([8, 9, 10], 10)
    assert len(slow.calls) == calls
    slow.publish(2)
    slow.stands = Position(slow.epoch(), 12)  # 11 and 12 went out before this one held what comes live
    [page] = slow.reads.catch_up([HistoryQuery(ROOM, 7, 1000)])
    assert [one.seq(ROOM) for one in page.publications] == [8, 9, 10, 11, 12]
    slow.stands = None
    assert len(slow.reads.catch_up([HistoryQuery(ROOM, 7, 1000), HistoryQuery("agent:b", 0, 1000)])) == 2


def test_a_position_that_the_room_has_not_reached_is_not_remembered(slow: Slow) -> None:
    slow.publish(5)
    slow.seqs(99)
    slow.stands = Position(slow.epoch(), 5)
    [page] = slow.reads.catch_up([HistoryQuery(ROOM, 99, 1000)])
    assert page.head.seq == 5


def test_another_history_is_never_mixed_in(slow: Slow) -> None:
    slow.publish(10)
    slow.seqs(0)
    slow.inner = MemoryBackend().broker
    slow.publish(3)
    assert slow.seqs(1) == [2, 3]
    assert slow.seqs(0) == [1, 2, 3]


def test_a_trimmed_history_is_told_as_it_is() -> None:
    slow = Slow(Limits(history_size=5))
    slow.publish(10)
    assert slow.seqs(2) == [6, 7, 8, 9, 10]
    [page] = slow.reads.read([HistoryQuery(ROOM, 0, 1000)])
    assert page.first == 6


def test_backwards_and_from_the_beginning(slow: Slow) -> None:
    slow.publish(6)
    assert slow.seqs(None, 3, backwards=True) == [6, 5, 4]
    assert slow.seqs(4, 3, backwards=True) == [3, 2, 1]
    assert slow.seqs(None, 4) == [1, 2, 3, 4]


def test_when_redis_is_away_all_that_wait_are_told_at_once(slow: Slow) -> None:
    slow.error = BrokerUnavailable("away")
    running = [gevent.spawn(slow.seqs, 0) for _ in range(20)]
    gevent.joinall(running)
    assert all(isinstance(one.exception, BrokerUnavailable) for one in running)
    assert len(slow.calls) == 1  # nobody waits for a second time-out
    slow.error = None
    assert slow.seqs(0) == []


def test_a_leader_that_is_killed_takes_nobody_with_it_for_long(slow: Slow) -> None:
    slow.publish(2)
    first, leader, follower = (gevent.spawn(slow.seqs, 0) for _ in range(3))
    gevent.sleep(0)
    leader.kill()
    gevent.joinall([first, follower], timeout=5)
    assert first.get() == [1, 2]
    assert isinstance(follower.exception, BrokerUnavailable)
    assert slow.seqs(0) == [1, 2]


def test_what_nobody_asks_for_is_forgotten(slow: Slow) -> None:
    slow.publish(2)
    slow.seqs(0)
    slow.now += module.UNUSED + 0.1
    slow.reads.prune()
    assert slow.seqs(1) == [2]
    assert slow.calls[-1] == [HistoryQuery(ROOM, 1, 1000)]


def test_memory_is_bounded(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    slow.publish(20)
    assert slow.seqs(0) == list(range(1, 21))
    assert slow.seqs(3) == list(range(4, 21))
    assert slow.calls[-1] == [HistoryQuery(ROOM, 3, 1000)]


def test_company_is_waited_for_only_right_after_a_read(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER", 0.05)
    slow.publish(1)
    slow.seqs(0)
    early = gevent.spawn(slow.seqs, 0)
    gevent.sleep(0.01)
    late = gevent.spawn(slow.seqs, 0)
    eventually(lambda: early.ready() and late.ready())
    assert len(slow.calls) == 2
