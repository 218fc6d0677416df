"""The registry: memberships, and the shared list of live ones that a fan-out walks."""

from __future__ import annotations

from wsapp.core.events import Profile
from wsapp.core.registry import Registry, Slice
from wsapp.core.session import Session, State
from wsapp.core.throttle import EventThrottler


class Screen:
    """A peer that remembers."""

    direct = None

    sid = "s"

    def push(self, frame: object) -> None:
        raise AssertionError("the registry sends nothing")

    def backlog(self) -> int:
        return 0

    def reads(self) -> bool:
        return True

    def lag(self, size: int) -> bool:
        return False

    def close(self, code: int, reason: str) -> None:
        raise AssertionError("the registry closes nothing")


def session(sid: str = "s1") -> Session:
    queue = EventThrottler(clock=lambda: 0.0).register("u", sid)
    return Session(f"id-{sid}", sid, "u", f"boot:{sid}", Profile.PLAIN, Screen(), queue, 0.0)


def test_joining_twice_is_one_subscription() -> None:
    registry, watcher = Registry(), session()
    sub = registry.join(watcher, "task:1")
    assert registry.join(watcher, "task:1") is sub
    assert sub.state is State.RECOVERING
    assert watcher.subs == {"task:1": sub}
    assert registry.rooms["task:1"].members == {watcher: sub}


def test_only_live_members_are_passed_to_and_the_tuple_is_shared() -> None:
    registry, one, two = Registry(), session("s1"), session("s2")
    first, second = registry.join(one, "task:1"), registry.join(two, "task:1")
    room = registry.rooms["task:1"]
    assert room.live() == ()
    first.go_live(4)
    assert room.live() == (first,)
    assert room.live() is room.live()
    before = room.live()
    second.go_live(4)
    assert before == (first,)  # a publication that is under way keeps the members of its time
    assert room.live() == (first, second)


def test_leaving_ends_the_membership_once() -> None:
    registry, watcher = Registry(), session()
    sub = registry.join(watcher, "task:1")
    sub.go_live(1)
    room = registry.rooms["task:1"]
    assert room.live() == (sub,)
    assert registry.leave(watcher, "task:1")
    assert (sub.state, room.live(), room.members, watcher.subs) == (State.LEFT, (), {}, {})
    assert not registry.leave(watcher, "task:1")
    assert not registry.leave(watcher, "task:never")


def test_a_new_join_after_leaving_is_a_new_subscription() -> None:
    registry, watcher = Registry(), session()
    old = registry.join(watcher, "task:1")
    registry.leave(watcher, "task:1")
    new = registry.join(watcher, "task:1")
    assert new is not old
    assert (old.state, new.state) == (State.LEFT, State.RECOVERING)


def test_vacant_rooms_are_forgotten_and_others_are_not() -> None:
    registry, one, two = Registry(), session("s1"), session("s2")
    for name in ("task:1", "agent:1"):
        registry.join(one, name)
    registry.join(two, "task:1")
    registry.leave_all(one)
    assert one.subs == {}
    agent, task = registry.rooms["agent:1"], registry.rooms["task:1"]
    assert registry.vacant() == [agent]
    registry.forget(task)
    registry.forget(agent)
    assert registry.rooms == {"task:1": task}


def test_forgetting_an_older_room_of_the_same_name_leaves_the_newer() -> None:
    registry, watcher = Registry(), session()
    registry.join(watcher, "task:1")
    old = registry.rooms["task:1"]
    registry.leave(watcher, "task:1")
    registry.forget(old)
    registry.join(watcher, "task:1")
    registry.leave(watcher, "task:1")
    registry.forget(old)
    assert registry.rooms["task:1"] is not old


def test_a_pass_through_the_members_takes_them_in_parts() -> None:
    registry = Registry()
    subs = [registry.join(session(f"s{number}"), "task:1") for number in range(5)]
    for sub in subs:
        sub.go_live(0)
    part = Slice(registry.rooms["task:1"].live(), 7)
    assert (list(part.take(3)), part.done) == (subs[:3], False)
    assert (list(part.take(3)), part.done, part.goal) == (subs[3:], True, 7)


def test_nothing_that_is_held_may_be_sent() -> None:
    registry = Registry()
    room = registry.join(session(), "task:1").room
    room.log.reset(4)
    assert room.ready == 4
    room.held.append(3)
    assert room.ready == 2
