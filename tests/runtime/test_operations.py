"""One worker's answers for the server API."""

from __future__ import annotations

from tests.runtime.world import World, peer
from wsapp.auth import revocation
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.operations import Operations, session_name

ALL = {"after": "", "limit": 100}


def test_rooms_in_order_after_a_cursor(world: World) -> None:
    world.client("agent:b", "task:a", user="ann")
    world.client("agent:b", "agent:a", user="ann")
    world.connections.join_room(world.client().sid, "wsapp-canary:x")
    told = Operations(world.connections)
    assert told.rooms({**ALL, "kind": ""}) == [["agent:a", 1, 1], ["agent:b", 2, 1], ["task:a", 1, 1]]
    assert told.rooms({"after": "agent:a", "limit": 1, "kind": ""}) == [["agent:b", 2, 1]]
    assert told.rooms({**ALL, "kind": "task:"}) == [["task:a", 1, 1]]
    assert told.room({"room": "agent:b"}) == {"ann": 2}
    assert told.room({"room": "agent:nobody"}) == {}


def test_connections_and_sessions_are_chosen(world: World) -> None:
    ann, bob = world.client("agent:a", user="ann"), world.client(user="bob")
    told = Operations(world.connections, world.clock)
    assert [one["sid"] for one in told.list_connections(ALL)] == sorted([ann.sid, bob.sid])
    [found] = told.list_connections({**ALL, "user": "ann", "room": "agent:a"})
    assert found["session"] == session_name(ann.id)
    assert told.list_connections({**ALL, "user": "bob", "room": "agent:a"}) == []
    [held] = told.sessions({**ALL, "user": "ann"})
    assert held["positions"] == {"agent:a": {"epoch": "", "seq": 0}}


def test_who_is_thrown_out_is_told_and_forgotten(world: World) -> None:
    ann, again, bob = (world.client("agent:a", user=user) for user in ("ann", "ann", "bob"))
    told = Operations(world.connections)
    assert told.disconnect({"user": "ann", "session": None, "sid": None, "reason": "enough"}) == 2
    assert told.disconnect({"user": None, "session": session_name(bob.id), "sid": None, "reason": ""}) == 1
    for session in (ann, again, bob):
        assert peer(session).closed[0][0] == 4502
        assert peer(session).frames[-1].payload == b"41"
        assert not session.subs
    assert told.disconnect({"user": None, "session": None, "sid": "nobody", "reason": ""}) == 0


def test_without_redis_it_is_closed_all_the_same(world: World) -> None:
    session = world.client("agent:a", user="ann")

    def away(*_: object) -> bool:
        raise BrokerUnavailable("away")

    world.connections.store.drop = away  # type: ignore[method-assign]
    assert Operations(world.connections).disconnect({"sid": session.sid, "reason": ""}) == 1
    assert peer(session).closed


def test_a_public_name_stands_for_a_session_without_telling_its_secret(world: World) -> None:
    ann = world.client("agent:a", user="ann")
    told, asked = Operations(world.connections), {"session": session_name(ann.id)}
    assert told.entries(asked) == [revocation("session", ann.id)]
    assert told.user_of(asked) == "ann"
    assert (told.entries({"session": ann.id}), told.user_of({"session": ann.id})) == ([], None)
