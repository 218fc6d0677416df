"""The keeper of one worker, with another one that is played by its port."""

from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.world import World, peer
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.presence import PresenceKeeper

ROOM = "agent:a"


class Kept:
    """A keeper with a lease, settled by hand."""

    def __init__(self, world: World) -> None:
        self.world, self.port = world, world.backend.presence
        self.keeper = PresenceKeeper(self.port, world.connections, world.links)
        self.keeper.boot = "w1"
        world.backend.start("w1", world.delivery.on_record, world.delivery.on_gap, lambda _: None, self._control)
        self.other("w2")
        self.beat()

    def _control(self, message: bytes) -> None:
        assert self.keeper.on_control(*message.decode().split(" ", 1))

    def other(self, boot: str, ttl: float = 30.0) -> None:
        self.world.backend.cluster.beat(boot, {}, ttl)
        self.port.sync(boot, {}, ttl, anew=True)

    def beat(self) -> None:
        self.world.backend.cluster.beat("w1", {}, 6.0)
        self.keeper.beat(6.0)
        self.keeper.settle()

    def told(self, session: Any) -> list[Any]:
        self.keeper.settle()
        found = [(event["joined"], event["left"], event["users"]) for event in peer(session).of("presence")]
        peer(session).frames.clear()
        return found


@pytest.fixture
def kept(world: World) -> Kept:
    return Kept(world)


def test_members_then_comings_and_goings(world: World, kept: Kept) -> None:
    world.client(ROOM, user="bob")
    ann = world.client(ROOM, user="ann")
    assert kept.keeper.subscribe(ann, ROOM) == {"users": 2, "connections": 2, "members": ["ann", "bob"]}
    eve, twice = world.client(ROOM, user="eve"), world.client(ROOM, user="eve")
    assert kept.told(ann) == [(["eve"], [], 3)]
    world.connections.leave_room(eve.sid, ROOM)
    assert kept.told(ann) == [], "one tab of two"
    world.connections.leave_room(twice.sid, ROOM)
    assert kept.told(ann) == [([], ["eve"], 2)]
    assert peer(twice).of("presence") == [], "who did not ask is not told"


def test_nothing_is_said_of_rooms_nobody_asks_for(world: World, kept: Kept) -> None:
    world.client(ROOM, user="bob")
    kept.beat()
    assert kept.port.members(ROOM) == {}
    assert kept.port.watchers(ROOM).connections == 1
    kept.port.ask("w2", ROOM, 30)
    kept.beat()
    assert kept.port.members(ROOM) == {"bob": 1}, "asked for by another worker"
    kept.port.unask("w2", ROOM)
    kept.beat()
    assert kept.port.members(ROOM) == {}, "no more"


def test_a_dead_workers_users_leave_with_its_lease(world: World, kept: Kept) -> None:
    kept.other("w2", ttl=10.0)
    kept.port.update("w2", ROOM, {"far": 1, "ann": 1})
    ann = world.client(ROOM, user="ann")
    assert kept.keeper.subscribe(ann, ROOM)["members"] == ["ann", "far"]
    world.pass_time(5.0)
    kept.beat()
    assert kept.told(ann) == []
    world.pass_time(5.5)
    kept.beat()
    assert kept.told(ann) == [([], ["far"], 1)]


def test_who_may_see_others_no_more_is_told_nothing(world: World, kept: Kept) -> None:
    """A newer token took presence away, not the room."""
    ann, bob = world.client(ROOM, user="ann"), world.client(ROOM, user="bob")
    for session in (ann, bob):
        kept.keeper.subscribe(session, ROOM)
    kept.told(ann)
    ann.watching = frozenset()
    world.client(ROOM, user="eve")
    assert kept.told(ann) == []
    assert kept.keeper._asking[ROOM] == {bob}


def test_who_leaves_asks_no_more(world: World, kept: Kept) -> None:
    ann = world.client(ROOM, user="ann")
    kept.keeper.subscribe(ann, ROOM)
    world.connections.leave_room(ann.sid, ROOM)
    assert kept.told(ann) == []
    kept.beat()
    assert kept.port.sync("w2", {}, 30, anew=False) == frozenset()
    assert not kept.keeper.views


def test_a_worker_whose_lease_had_run_out_says_everything_again(world: World, kept: Kept) -> None:
    ann = world.client(ROOM, user="ann")
    kept.keeper.subscribe(ann, ROOM)
    world.pass_time(100.0)
    assert kept.port.members(ROOM) == {}
    kept.beat()
    kept.beat()
    assert kept.port.members(ROOM) == {"ann": 1}
    assert kept.port.watchers(ROOM).connections == 1


def test_what_redis_did_not_take_is_said_later(world: World, kept: Kept) -> None:
    ann = world.client(ROOM, user="ann")
    kept.keeper.subscribe(ann, ROOM)
    update = kept.port.update

    def away(*_: object) -> None:
        raise BrokerUnavailable("away")

    kept.port.update = away  # type: ignore[method-assign]
    world.client(ROOM, user="bob")
    with pytest.raises(BrokerUnavailable):
        kept.keeper.settle()
    assert not kept.keeper.answer_track(ROOM)
    kept.port.update = update  # type: ignore[method-assign]
    assert kept.told(ann) == [(["bob"], [], 2)]


def test_a_session_that_had_asked_is_told_when_it_is_back(world: World, kept: Kept) -> None:
    world.client(ROOM, user="bob")
    ann = world.client(ROOM, user="ann")
    kept.keeper.subscribe(ann, ROOM)
    saved = world.connections.saved(ann)
    assert (saved.watching, ann.dirty) == ((ROOM,), True)
    world.connections.handle_disconnection(ann.sid)
    kept.keeper.settle()
    back = world.client(ROOM, user="ann")
    kept.keeper.returned(back, saved.watching)
    kept.keeper.settle()
    [told] = peer(back).of("presence")
    assert told == {"room": ROOM, "joined": [], "left": [], "users": 2, "connections": 2, "members": ["ann", "bob"]}
    peer(back).frames.clear()
    world.client(ROOM, user="eve")
    assert kept.told(back) == [(["eve"], [], 3)]
    assert world.connections.saved(back).watching == (ROOM,)
    world.connections.leave_room(back.sid, ROOM)
    assert world.connections.saved(back).watching == ()


def test_the_return_waits_while_redis_is_away(world: World, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, gone = world.client(ROOM, user="ann"), world.client(ROOM, user="bob")

    def away(*_arguments: object) -> None:
        raise BrokerUnavailable("away")

    kept.keeper.returned(ann, [ROOM])
    kept.keeper.returned(gone, [ROOM])
    with monkeypatch.context() as patch:
        patch.setattr(kept.port, "ask", away)
        with pytest.raises(BrokerUnavailable):
            kept.keeper.settle()
    world.connections.handle_disconnection(gone.sid)
    kept.keeper.settle()
    assert len(peer(ann).of("presence")) == 1
    assert peer(gone).of("presence") == []
