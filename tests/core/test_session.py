"""A session: what a PONG proves, and from where a successor starts."""

from __future__ import annotations

from typing import Any

from wsapp.core.backlog import SHED_ITEMS, Shed
from wsapp.core.events import Lane, Placed, Position, Profile, Publication
from wsapp.core.registry import Registry
from wsapp.core.room_log import MAX_ITEMS
from wsapp.core.session import MUCH, Peer, Session, State, Subscription
from wsapp.core.throttle import EventThrottler


class Screen:

    direct = None
    def __init__(self) -> None:
        self.sid = "s1"
        self.closed: list[int] = []

    def push(self, frame: object) -> None:
        raise AssertionError("a session sends nothing by itself")

    def backlog(self) -> int:
        return 0

    def reads(self) -> bool:
        return True

    def lag(self, size: int) -> bool:
        return False

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)


class Watch:
    """A session in one room, with its throttle."""

    def __init__(self) -> None:
        self.throttler = EventThrottler(rate=1, clock=lambda: 0.0)
        peer: Peer = Screen()
        self.session = Session("secret", "s1", "ada", "boot:s1", Profile.PLAIN, peer,
                               self.throttler.register("ada", "s1"), 100.0)
        self.registry = Registry()
        self.sub: Subscription = self.registry.join(self.session, "task:1")
        self.sub.room.track.reset(Position("e1", 0))
        self.sub.started(0)
        self.sub.go_live(0)

    def send(self, seq: int) -> None:
        self.sub.sent = seq
        self.session.sent += 1

    def publish(self, seq: int, lane: Lane = Lane.LOG, entity: str = "", **options: Any) -> None:
        places = options.pop("places", (Placed("task:1", seq, "e1"),))
        event = Publication(f"{seq}-0", 0, 5, "", lane, entity, "built", places, b"{}")
        self.sub.room.log.append(event, seq, 0.0, **options)

    def defer(self, seq: int) -> None:
        """An event that this member is behind with."""
        self.publish(seq)
        self.sub.behind = True
        self.throttler.behind("ada", "s1", "task:1", self.sub, 0.0)
        self.throttler.get_queue("ada")


def test_a_pong_confirms_what_was_sent_before_its_ping_and_no_more() -> None:
    watch = Watch()
    watch.send(3)
    watch.session.pinging()
    watch.send(5)
    assert watch.session.positions() == {"task:1": Position("e1", 0)}
    watch.session.ponged(107.0)
    assert watch.session.positions() == {"task:1": Position("e1", 3)}
    assert watch.session.last_seen == 107.0
    watch.session.pinging()
    watch.session.ponged(109.0)
    assert watch.session.positions() == {"task:1": Position("e1", 5)}


def test_what_waits_in_a_lane_is_not_confirmed() -> None:
    watch = Watch()
    for seq in (1, 2, 3):
        watch.publish(seq)
    watch.send(3)
    watch.defer(4)
    watch.defer(5)
    assert watch.sub.position() == 3
    watch.session.pinging()
    watch.session.ponged(101.0)
    assert watch.session.positions() == {"task:1": Position("e1", 3)}
    watch.throttler.clear_queue("ada")
    assert watch.sub.position() == 5


def test_it_is_dirty_only_when_the_confirmed_position_moved() -> None:
    watch = Watch()
    watch.session.pinging()
    watch.session.ponged(101.0)
    assert not watch.session.dirty
    watch.send(1)
    watch.session.pinging()
    watch.session.ponged(102.0)
    assert watch.session.dirty


def test_proof_is_wanted_while_something_is_unconfirmed_and_urgent_once_quiet() -> None:
    watch = Watch()
    assert not watch.session.wants_proof()
    watch.send(1)
    assert watch.session.wants_proof() is False  # something came since the last look
    assert watch.session.wants_proof() is True
    watch.send(2)
    assert watch.session.wants_proof() is False
    assert watch.session.wants_proof() is True
    watch.session.pinging()
    watch.session.ponged(101.0)
    assert not watch.session.wants_proof()


def test_proof_is_wanted_in_busy_times_before_too_much_would_be_replayed() -> None:
    watch = Watch()
    watch.send(MUCH - 1)
    assert not watch.session.wants_proof()
    watch.send(MUCH)
    assert watch.session.wants_proof()


def test_starting_puts_all_marks_in_one_place() -> None:
    watch = Watch()
    watch.sub.started(9)
    assert (watch.sub.sent, watch.sub.pinged, watch.sub.confirmed) == (9, 9, 9)
    assert not watch.session.wants_proof()


def test_metadata_is_not_shared_and_repr_tells_no_secret() -> None:
    one, two = Watch().session, Watch().session
    one.metadata["a"] = 1
    assert two.metadata == {}
    assert "secret" not in repr(one)


def test_a_ping_in_the_middle_of_a_recovery_proves_nothing() -> None:
    watch = Watch()
    watch.sub.state = State.RECOVERING
    watch.sub.sent = 9  # where the history that is being sent ends
    watch.session.pinging()
    watch.session.ponged(1.0)
    assert watch.session.positions()["task:1"].seq == 0
    watch.sub.go_live(9)
    watch.session.pinging()
    watch.session.ponged(2.0)
    assert watch.session.positions()["task:1"].seq == 9


def test_two_members_at_one_place_share_their_backlog() -> None:
    watch = Watch()
    queue = watch.throttler.register("bob", "s2")
    other = Session("other", "s2", "bob", "boot:s2", Profile.PLAIN, Screen(), queue, 0.0)
    sub = watch.registry.join(other, "task:1")
    sub.started(0)
    sub.go_live(0)
    for seq in (1, 2, 3):
        watch.publish(seq)
    assert [one.gather(10, 1000).count for one in (watch.sub, sub)] == [3, 3]
    assert watch.sub.backlog is sub.backlog
    watch.publish(4, lane=Lane.STATE, entity="t")
    watch.publish(5, lane=Lane.STATE, entity="t")
    assert [one.gather(10, 1000).count for one in (watch.sub, sub)] == [2, 2]
    assert watch.sub.backlog is sub.backlog
    assert [(waiting.seq, waiting.merged) for waiting in sub.backlog.waits] == [(1, 0), (2, 0), (3, 0), (5, 1)]
    assert (sub.sent, sub.position(), sub.caught_up()) == (5, 0, True)


def test_what_was_sent_ahead_or_is_had_or_comes_through_another_room_is_left_out() -> None:
    watch = Watch()
    agent = watch.registry.join(watch.session, "agent:a")
    agent.room.track.reset(Position("e2", 0))
    agent.started(4)
    watch.publish(1, special=True)
    watch.publish(2, special=True, had=[watch.session])
    watch.publish(3, special=True, places=(Placed("agent:a", 4, "e2"), Placed("task:1", 3, "e1")))
    watch.publish(4, special=True, places=(Placed("agent:a", 5, "e2"), Placed("task:1", 4, "e1")))
    watch.publish(5)
    watch.sub.ahead = {1, 9}
    watch.sub.gather(10, 1000)
    assert [waiting.seq for waiting in watch.sub.backlog.waits] == [3, 5]
    assert watch.sub.ahead == {9}


def test_what_the_log_has_let_go_is_reported() -> None:
    watch = Watch()
    for seq in range(1, MAX_ITEMS + 2):
        watch.publish(seq)
    first = watch.sub.room.log.first
    assert first > 1
    found = watch.sub.gather(5000, 1_000_000)
    assert found.sheds == (Shed("task:1", 1, first - 1, first - 1, SHED_ITEMS, 10),)
    assert len(watch.sub.backlog) + first - 1 == MAX_ITEMS + 1


def test_dropping_counts_all_that_is_lost() -> None:
    watch = Watch()
    for seq in range(1, 5):
        watch.publish(seq, lane=Lane.STATE, entity="t")
    watch.sub.gather(10, 1000)
    watch.publish(5)
    assert watch.sub.drop() == 5
    assert not watch.sub.backlog and not watch.sub.behind


def test_what_is_still_to_be_replayed_was_not_passed_on() -> None:
    watch = Watch()
    watch.publish(1)
    watch.send(1)
    watch.defer(2)
    assert watch.sub.passed() == 1
    watch.sub.state = State.RECOVERING
    assert watch.sub.passed() == 0
