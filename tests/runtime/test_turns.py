"""Rooms in turns: slices, what goes together, what is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gevent
import pytest

from wsapp.core.events import Lane, Placed, Publication
from wsapp.core.registry import Room, Turn
from wsapp.core.session import Subscription
from wsapp.runtime.turns import JOINED, SLICE, Turns

Served = tuple[str, tuple[str, ...], int]


class Stage:
    """Turns whose servings are written down: room, ids, how many members."""

    def __init__(self) -> None:
        self.served: list[Served] = []
        self.held: set[str] = set()
        self.turns = Turns(self._serve, lambda publication: publication.id not in self.held)

    def _serve(self, room: Room, turn: Turn, members: Sequence[Subscription]) -> None:
        self.served.append((room.name, tuple(publication.id for publication, _ in turn.items), len(members)))

    def add(self, room: Room, id: str, live: tuple[object, ...], *, joins: bool = True, size: int = 10) -> None:
        publication = Publication(id, 0, 5, "", Lane.LOG, "a", "agent-thought", (Placed(room.name, 1, "e"),),
                                  b"x" * size)
        self.turns.add(room, publication, 1, live, joins=joins)  # type: ignore[arg-type]


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    greenlet = gevent.spawn(stage.turns.run)
    yield stage
    greenlet.kill()


def settle() -> None:
    for _ in range(20):
        gevent.sleep(0)


def members(count: int) -> tuple[object, ...]:
    return tuple(object() for _ in range(count))


def test_what_waits_for_the_same_members_goes_together(stage: Stage) -> None:
    room, live = Room("agent:a"), members(3)
    for id in "abc":
        stage.add(room, id, live)
    assert stage.turns.queue
    settle()
    assert stage.served == [("agent:a", ("a", "b", "c"), 3)]
    assert not stage.turns.queue


def test_somebody_came_in_between(stage: Stage) -> None:
    room = Room("agent:a")
    stage.add(room, "a", members(3))
    stage.add(room, "b", members(4))
    settle()
    assert stage.served == [("agent:a", ("a",), 3), ("agent:a", ("b",), 4)]


def test_one_that_does_not_join_goes_alone_and_keeps_its_place(stage: Stage) -> None:
    room, live = Room("agent:a"), members(2)
    for id in "abcde":
        stage.add(room, id, live, joins=id != "c")
    settle()
    assert [ids for _, ids, _ in stage.served] == [("a", "b"), ("c",), ("d", "e")]


def test_no_more_bytes_go_together_than_a_send_should_have(stage: Stage) -> None:
    room, live = Room("agent:a"), members(2)
    for id in "abc":
        stage.add(room, id, live, size=JOINED // 2)
    settle()
    assert [ids for _, ids, _ in stage.served] == [("a", "b"), ("c",)]


def test_a_turn_that_has_begun_takes_no_more(stage: Stage) -> None:
    room, live = Room("agent:a"), members(SLICE + 1)
    stage.add(room, "a", live)
    gevent.sleep(0)
    stage.add(room, "b", live)
    settle()
    assert stage.served == [("agent:a", ("a",), SLICE), ("agent:a", ("a",), 1),
                            ("agent:a", ("b",), SLICE), ("agent:a", ("b",), 1)]


def test_rooms_alternate(stage: Stage) -> None:
    large, small = Room("agent:a"), Room("agent:b")
    stage.add(large, "a", members(3 * SLICE))
    stage.add(small, "b", members(1))
    settle()
    assert [room for room, _, _ in stage.served] == ["agent:a", "agent:b", "agent:a", "agent:a"]


def test_a_held_one_holds_its_room_until_it_is_released(stage: Stage) -> None:
    room, other, live = Room("agent:a"), Room("agent:b"), members(1)
    stage.held.add("b")
    for id in "abc":
        stage.add(room, id, live, joins=id != "b")
    stage.add(other, "x", live)
    settle()
    assert stage.served == [("agent:a", ("a",), 1), ("agent:b", ("x",), 1)]
    held = room.pending[0].items[0][0]
    stage.held.clear()
    stage.turns.release(room, held)
    settle()
    assert [ids for _, ids, _ in stage.served[2:]] == [("b",), ("c",)]


def test_finish_serves_the_rest_at_once(stage: Stage) -> None:
    room, live = Room("agent:a"), members(SLICE + 1)
    for id in "ab":
        stage.add(room, id, live)
    stage.turns.finish(room)
    assert stage.served == [("agent:a", ("a", "b"), SLICE), ("agent:a", ("a", "b"), 1)]
    settle()
    assert len(stage.served) == 2


def test_a_room_that_waits_takes_no_more_than_the_backlog_and_is_told_of_when_it_has_caught_up(stage: Stage) -> None:
    room, other, live = Room("agent:a"), Room("agent:b"), members(1)
    stage.turns.backlog, told = 15, []
    stage.turns.caught_up = lambda room: told.append(room.name)
    for id in "ab":
        assert not stage.turns.full(room)
        stage.add(room, id, live, size=10)
    assert stage.turns.full(room)
    assert not stage.turns.full(other), "a room that does not wait has its turn"
    settle()
    assert (told, stage.turns.full(room)) == (["agent:a"], False)
    settle()
    assert told == ["agent:a"]
