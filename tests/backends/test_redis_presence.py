"""Presence, held against both families."""

from __future__ import annotations

from tests.backends.conftest import World, eventually
from wsapp.core.ports import Backend

ROOM, OTHER = "agent:a", "task:t"


def alive(backend: Backend, boot: str, ttl: float = 30.0, counts: dict[str, int] | None = None) -> frozenset[str]:
    """One beat."""
    backend.cluster.beat(boot, {}, ttl)
    asked = backend.presence.sync(boot, counts or {}, ttl, anew=True)
    assert asked is not None
    return asked


def test_members_are_those_of_living_workers(world: World) -> None:
    backend = world.open()
    presence = backend.presence
    alive(backend, "w1")
    alive(backend, "w2", ttl=0.4)
    presence.update("w1", ROOM, {"ann": 2, "bob": 1})
    presence.update("w2", ROOM, {"ann": 1, "c\tc": 1, "": 4})
    presence.update("w3", ROOM, {"ghost": 1})
    assert presence.members(ROOM) == {"ann": 3, "bob": 1, "c\tc": 1, "": 4}
    assert presence.members(OTHER) == {}
    presence.update("w1", ROOM, {"bob": 0, "ann": 1})
    assert presence.members(ROOM) == {"ann": 2, "c\tc": 1, "": 4}
    world.pass_time(0.5)
    assert presence.members(ROOM) == {"ann": 1}
    alive(backend, "w2")
    assert presence.members(ROOM) == {"ann": 1}, "what a dead worker said is forgotten"


def test_what_is_asked_is_told_until_the_asker_is_gone(world: World) -> None:
    backend = world.open()
    presence = backend.presence
    alive(backend, "w1")
    alive(backend, "w2", ttl=0.4)
    presence.ask("w1", ROOM, 30)
    presence.ask("w2", ROOM, 0.4)
    presence.ask("w2", OTHER, 0.4)
    assert presence.sync("w1", {}, 30, anew=False) == {ROOM, OTHER}
    presence.unask("w1", ROOM)
    presence.unask("w1", "agent:never")
    assert presence.sync("w1", {}, 30, anew=False) == {ROOM, OTHER}
    world.pass_time(0.5)
    assert presence.sync("w1", {}, 30, anew=False) == frozenset()


def test_a_lapsed_worker_is_told_to_begin_anew(world: World) -> None:
    backend = world.open()
    assert backend.presence.sync("w1", {ROOM: 1}, 30, anew=False) is None
    alive(backend, "w1", ttl=0.3, counts={ROOM: 1})
    world.pass_time(0.4)
    assert backend.presence.sync("w1", {ROOM: 2}, 30, anew=False) is None


def test_askers_are_told_of_changes(world: World) -> None:
    listener = world.listen(boot="w1")
    presence = listener.backend.presence
    alive(listener.backend, "w1")
    presence.update("w1", ROOM, {"ann": 1})
    presence.ask("w1", ROOM, 30)

    def told() -> bool:
        presence.update("w1", ROOM, {"ann": 2})
        return bool(listener.control)

    eventually(told)
    assert set(listener.control) == {f"presence {ROOM}".encode()}


def test_watchers_are_counted_with_the_beats(world: World) -> None:
    backend = world.open()
    presence = backend.presence
    alive(backend, "w1", counts={ROOM: 3, OTHER: 1})
    alive(backend, "w2", ttl=0.4, counts={ROOM: 2})
    assert presence.watchers(ROOM).connections == 5
    presence.sync("w1", {ROOM: 0}, 30, anew=False)
    assert (presence.watchers(ROOM).connections, presence.watchers(OTHER).connections) == (2, 1)
    world.pass_time(0.5)
    assert not presence.watchers(ROOM)
    assert presence.watchers(OTHER)


def test_who_follows_a_room_is_seen_at_once(world: World) -> None:
    listener = world.listen()
    assert not listener.backend.presence.watchers(ROOM)
    eventually(lambda: listener.backend.broker.subscribe([ROOM]) is None)
    found = listener.backend.presence.watchers(ROOM)
    assert (bool(found), found.connections, found.workers) == (True, 1, 1)
