"""A session: what a PONG proves, and from where a successor starts."""

from __future__ import annotations

from wsapp.core.events import Lane, Placed, Position, Profile, Publication
from wsapp.core.lanes import Waiting
from wsapp.core.registry import Registry
from wsapp.core.session import MUCH, Peer, Session, State, Subscription, Tail
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

    def defer(self, seq: int) -> None:
        self.send(seq)
        self.throttler.defer("ada", "s1", Waiting("built", 5, Lane.LOG, "", "task:1", seq, f"{seq}-0", {}, 2, 0.0))


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


def test_lanes_are_there_only_while_something_waits() -> None:
    watch = Watch()
    assert watch.session.lanes() is None
    watch.defer(1)
    assert watch.session.lanes().depth == 1
    watch.throttler.clear_queue("ada")
    assert watch.session.lanes() is None


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


def test_what_waits_of_one_room_is_forgotten() -> None:
    watch = Watch()
    for seq, room in enumerate(("task:1", "task:1", "agent:2"), 1):
        watch.throttler.defer("ada", "s1", Waiting("x", 5, Lane.LOG, "e", room, seq, str(seq), {}, 1, 0.0))
    assert watch.session.drop_waiting("task:1") == 2
    assert watch.session.lanes().depth == 1
    assert watch.session.drop_waiting("agent:2") == 1
    assert watch.session.lanes() is None
    assert watch.session.drop_waiting("agent:2") == 0


def test_what_came_live_of_another_history_is_of_the_past() -> None:
    old, new = (Publication("i", 1, 5, "", Lane.LOG, "e", "x", (Placed("task:1", 1, epoch),), b"{}")
                for epoch in ("e1", "e2"))
    tail = Tail("e2")
    tail.hold(old, 1)
    assert [tail.covers(one, "task:1") for one in (old, new)] == [False, True]
    tail.restart("e1")
    assert (tail.held, tail.covers(old, "task:1")) == ([], True)
    assert Tail().covers(old, "task:1"), "the first history there is"


def test_what_is_still_to_be_replayed_was_not_passed_on() -> None:
    watch = Watch()
    watch.send(1)
    watch.defer(2)
    assert watch.sub.passed() == 1
    watch.sub.state = State.RECOVERING
    assert watch.sub.passed() == 0
