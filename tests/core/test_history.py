"""Positions and joins: the exact suffix or a refusal, never a part."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsapp.core.events import Lane, Placed, Position, Publication
from wsapp.core.history import Join, More, Reason, Recovered, Refused, RoomTrack, Step, Verdict
from wsapp.core.ports import HistoryPage, HistoryQuery

ROOM = "agent:1"


def publication(seq: int, epoch: str = "e1", size: int = 2) -> Publication:
    places = (Placed("other", 99, "z"), Placed(ROOM, seq, epoch))
    return Publication(f"{epoch}-{seq}", 0, 5, "", Lane.LOG, "1", "x", places, b"x" * size)


class Room:
    """A model of the broker: a history that can be trimmed, and the joins that watch it."""

    def __init__(self, epoch: str = "e1", head: int = 0, first: int = 1) -> None:
        self.epoch, self.head, self.first = epoch, head, first
        self.joins: list[Join] = []

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            self.head += 1
            for join in self.joins:
                if not join.done:
                    join.hold(publication(self.head, self.epoch), self.head)

    def trim(self, count: int) -> None:
        self.first = min(self.head + 1, self.first + count)

    def begin_anew(self, epoch: str) -> None:
        self.epoch, self.head, self.first = epoch, 0, 1

    def read(self, query: HistoryQuery) -> HistoryPage:
        assert query.room == ROOM
        if query.backwards:
            numbers = list(range(self.head, self.first - 1, -1))[:query.limit]
        else:
            numbers = list(range(max(self.first, (query.since or 0) + 1), self.head + 1))[:query.limit]
        return HistoryPage(ROOM, Position(self.epoch, self.head), self.first,
                           tuple(publication(seq, self.epoch) for seq in numbers))

    def join(self, since: Position | None, **limits: int) -> Join:
        join = Join(ROOM, since, **limits)
        self.joins.append(join)
        return join

    def finish(self, join: Join, limit: int = 1000) -> Recovered | Refused:
        for _ in range(1000):
            step = join.page(self.read(join.query(limit)))
            if not isinstance(step, More):
                return step
        raise AssertionError("the join does not end")


def at(seq: int, epoch: str = "e1") -> Position:
    return Position(epoch, seq)


def seqs(step: Step) -> list[int]:
    assert isinstance(step, Recovered), step
    return [found.seq(ROOM) for found in step.publications]


def test_track() -> None:
    track = RoomTrack("e1", 4)
    assert [track.offer(*offer) for offer in [(5, "e1"), (5, "e1"), (3, "e1"), (7, "e1"), (6, "e2"), (6, "e1")]] == [
        Verdict.DELIVER, Verdict.DUPLICATE, Verdict.DUPLICATE, Verdict.HOLE, Verdict.NEW_EPOCH, Verdict.DELIVER]
    track.reset(at(1, "e2"))
    assert track.position == ("e2", 1) and track.offer(2, "e2") is Verdict.DELIVER


def test_a_new_track_stands_nowhere() -> None:
    assert RoomTrack().offer(1, "e1") is Verdict.NEW_EPOCH


@given(st.lists(st.integers(1, 20), max_size=60))
def test_a_track_delivers_each_number_once_and_in_order(offers: list[int]) -> None:
    track = RoomTrack("e", 0)
    delivered = [seq for seq in offers if track.offer(seq, "e") is Verdict.DELIVER]
    assert delivered == list(range(1, len(delivered) + 1)) and track.seq == len(delivered)


def test_everything_after_the_position_in_pages() -> None:
    room = Room(head=10)
    join = room.join(at(3))
    assert join.query(4) == HistoryQuery(ROOM, 3, 4)
    assert join.page(room.read(join.query(4))) == More(7)
    step = room.finish(join, 4)
    assert seqs(step) == [4, 5, 6, 7, 8, 9, 10] and step.position == at(10)


def test_nothing_missed() -> None:
    room = Room(head=5, first=6)
    step = room.finish(room.join(at(5)))
    assert step == Recovered((), at(5))
    empty = Room()
    assert empty.finish(empty.join(at(0))) == Recovered((), at(0))


def test_held_and_page_are_joined_without_duplicates() -> None:
    room = Room(head=5)
    join = room.join(at(3))
    room.publish(2)
    page = room.read(join.query())
    room.publish(2)
    step = join.page(page)
    assert seqs(step) == [4, 5, 6, 7, 8, 9]
    assert isinstance(step, Recovered) and step.position == at(9)


def test_a_hole_before_the_held_leads_to_another_read() -> None:
    room = Room(head=5)
    join = room.join(at(3))
    page = room.read(join.query())
    room.head = 8  # published, but lost on the live channel
    room.publish()
    assert join.page(page) == More(5)
    assert seqs(room.finish(join)) == [4, 5, 6, 7, 8, 9]


def test_a_hole_that_no_read_fills_is_refused() -> None:
    room = Room(head=5)
    join = room.join(at(3))
    join.hold(publication(8), 8)
    step = room.finish(join)
    assert step == Refused(Reason.TRIMMED, 5, at(8))


def test_a_hole_within_a_page_is_refused_unless_held() -> None:
    room = Room(head=6)
    whole = room.read(HistoryQuery(ROOM, 3))
    torn = HistoryPage(ROOM, whole.head, 4, (whole.publications[0], whole.publications[2]))
    assert room.join(at(3)).page(torn) == Refused(Reason.TRIMMED, 3, at(6))
    join = room.join(at(3))
    join.hold(publication(5), 5)
    assert seqs(join.page(torn)) == [4, 5, 6]


def test_trimmed() -> None:
    room = Room(head=9, first=6)
    assert room.finish(room.join(at(4))) == Refused(Reason.TRIMMED, 5, at(9))
    assert seqs(room.finish(room.join(at(5)))) == [6, 7, 8, 9]
    gone = Room(head=9, first=10)
    assert gone.join(at(4)).page(gone.read(HistoryQuery(ROOM, 4))) == Refused(Reason.TRIMMED, 5, at(9))


def test_trimmed_between_two_pages_replays_nothing() -> None:
    room = Room(head=9)
    join = room.join(at(0))
    assert join.page(room.read(join.query(3))) == More(3)
    room.trim(5)
    room.publish()
    assert room.finish(join, 3) == Refused(Reason.TRIMMED, 10, at(10))


def test_what_was_trimmed_but_is_held_is_not_lost() -> None:
    room = Room(head=3)
    join = room.join(at(3))
    room.publish(6)
    room.trim(8)
    assert seqs(room.finish(join)) == [4, 5, 6, 7, 8, 9]


def test_another_epoch() -> None:
    room = Room("e2", head=7)
    assert room.finish(room.join(at(5))) == Refused(Reason.EPOCH, 7, at(7, "e2"))


def test_an_epoch_that_ends_while_joining() -> None:
    room = Room(head=7)
    join = room.join(at(2))
    assert join.page(room.read(join.query(2))) == More(4)
    room.publish()
    room.begin_anew("e2")
    room.publish(2)
    assert room.finish(join, 2) == Refused(Reason.EPOCH, 2, at(2, "e2"))


def test_a_page_older_than_the_held_epoch_is_read_again() -> None:
    room = Room(head=7)
    join = room.join(at(7))
    page = room.read(join.query())
    room.begin_anew("e2")
    room.publish(3)
    assert join.page(page) == More(7)
    assert room.finish(join) == Refused(Reason.EPOCH, 3, at(3, "e2"))


def test_held_ones_of_a_past_epoch_are_let_go() -> None:
    room = Room(head=7)
    join = room.join(None)
    room.publish()
    room.begin_anew("e2")
    room.head = 4
    assert room.finish(join) == Recovered((), at(4, "e2"))


def test_a_live_start_follows_a_new_epoch() -> None:
    room = Room(head=7)
    join = room.join(None)
    page = room.read(join.query())
    room.begin_anew("e2")
    room.publish(2)
    assert isinstance(join.page(page), More)
    step = room.finish(join)
    assert isinstance(step, Recovered) and step.position == at(2, "e2")


def test_ahead() -> None:
    room = Room(head=5)
    assert room.finish(room.join(at(9))) == Refused(Reason.AHEAD, 0, at(5))


@pytest.mark.parametrize("limits", [{"max_replay": 6}, {"max_bytes": 13}])
def test_too_many(limits: dict[str, int]) -> None:
    room = Room(head=10)
    assert room.finish(room.join(at(3), **limits)) == Refused(Reason.TOO_MANY, 7, at(10))
    assert len(seqs(room.finish(room.join(at(4), **limits)))) == 6


def test_too_many_counts_the_held() -> None:
    room = Room(head=5)
    join = room.join(at(3), max_replay=4)
    room.publish(3)
    assert room.finish(join) == Refused(Reason.TOO_MANY, 5, at(8))


def test_live_start_replays_nothing_old() -> None:
    room = Room(head=5)
    join = room.join(None)
    assert join.query() == HistoryQuery(ROOM, None, 1, backwards=True)
    room.publish(2)
    page = room.read(join.query())
    room.publish(2)
    step = join.page(page)
    assert seqs(step) == [8, 9]
    assert isinstance(step, Recovered) and step.position == at(9)
    new = Room()
    assert new.finish(new.join(None)) == Recovered((), at(0))


def test_live_start_with_a_hole_reads_on() -> None:
    room = Room(head=5)
    join = room.join(None)
    page = room.read(join.query())
    room.head = 7
    room.publish()
    assert join.page(page) == More(5)
    assert seqs(room.finish(join)) == [6, 7, 8]


@pytest.mark.parametrize("limits", [{"max_held": 3}, {"max_bytes": 6, "max_replay": 100}])
def test_held_is_bounded_and_what_was_let_go_is_read(limits: dict[str, int]) -> None:
    room = Room(head=5)
    join = room.join(None, **limits)
    page = room.read(join.query())
    assert [join.hold(publication(seq), seq) for seq in range(6, 12)] == [True] * 3 + [False] * 3
    assert len(join._held) == 3 and join._held_bytes == 6
    room.head = 11
    assert join.page(page) == More(5)
    if "max_held" in limits:
        assert seqs(room.finish(join)) == [6, 7, 8, 9, 10, 11]
    else:
        assert room.finish(join) == Refused(Reason.TOO_MANY, 6, at(11))


def test_one_huge_publication_is_still_held() -> None:
    join = Join(ROOM, at(0), max_bytes=10)
    assert join.hold(publication(1, size=100), 1) and not join.hold(publication(2, size=100), 2)
    assert list(join._held) == [2]


def test_the_end_is_the_end() -> None:
    room = Room()
    join = room.join(at(0))
    room.finish(join)
    assert join.done
    with pytest.raises(RuntimeError):
        join.page(room.read(HistoryQuery(ROOM)))
    with pytest.raises(RuntimeError):
        join.hold(publication(1), 1)


def test_a_publication_of_another_room_is_refused() -> None:
    with pytest.raises(KeyError):
        Join("task:1", None).hold(publication(1), 1)


@pytest.mark.parametrize("limits", [{"max_held": 0}, {"max_replay": -1}, {"max_bytes": 0}])
def test_limits_must_be_positive(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Join(ROOM, None, **limits)


actions = st.lists(st.sampled_from(["publish", "publish", "publish", "lose", "trim", "page", "renew"]), max_size=40)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 12), st.none() | st.integers(0, 14), st.booleans(), actions, st.integers(1, 5), st.integers(1, 6),
       st.integers(1, 30))
def test_the_exact_suffix_or_a_refusal(head: int, since: int | None, renewing: bool, steps: list[str], limit: int,
                                       max_held: int, max_replay: int) -> None:
    """Whatever happens between asking for a page and getting it: publishes, live losses, trims, a new epoch."""
    room = Room(head=head)
    join = room.join(None if since is None else at(since), max_held=max_held, max_replay=max_replay)
    page, result, started = room.read(join.query(limit)), None, head
    for step in steps:
        if step == "publish":
            room.publish()
        elif step == "lose":
            room.head += 1
        elif step == "trim":
            room.trim(2)
        elif step == "renew" and renewing:
            room.begin_anew(room.epoch + "+")
        elif step == "page" and not join.done:
            result = join.page(page)
            assert len(join._held) <= max_held
            page = room.read(join.query(limit))
    if not join.done:
        result = room.finish(join, limit)
    assert not join._held and not join._found and join._held_bytes == 0
    assert result is not None and not isinstance(result, More)
    if isinstance(result, Refused):
        assert result.missed >= 0
        assert result.position.epoch != room.epoch or result.position.seq <= room.head
        if result.reason is Reason.AHEAD:
            assert since is not None and since > head
        if result.reason is Reason.EPOCH:
            assert renewing and since is not None
        return
    numbers = seqs(result)
    assert all(found.places[1].epoch == result.position.epoch for found in result.publications)
    assert all(after == before + 1 for before, after in pairwise(numbers))
    assert len(numbers) <= max_replay
    if since is not None:
        assert result.position.epoch == "e1"
        assert numbers == list(range(since + 1, result.position.seq + 1))
    else:
        assert not numbers or numbers[-1] == result.position.seq
        assert result.position.epoch != "e1" or (numbers or [started + 1])[0] > started


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 7), st.lists(st.integers(0, 5), max_size=8))
def test_untrimmed_history_always_recovers(head: int, since: int, limit: int, bursts: list[int]) -> None:
    room = Room(head=max(head, since))
    join = room.join(at(since), max_held=4)
    result: Step = More(since)
    for burst in [*bursts, *[0] * 80]:
        page = room.read(join.query(limit))
        room.publish(burst)
        result = join.page(page)
        if join.done:
            break
    assert seqs(result) == list(range(since + 1, result.position.seq + 1))  # type: ignore[union-attr]
    assert result.position.seq == room.head  # type: ignore[union-attr]
