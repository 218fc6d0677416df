"""An event of several partitions comes once per partition and is served once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.runtime.world import World, eventually, peer, thoughts
from wsapp.core.events import Draft, Lane, Placed, Position, Publication
from wsapp.core.ledger import Fate, Ledger
from wsapp.core.partitions import SPREAD, room_in
from wsapp.core.session import Session
from wsapp.runtime import had

COUNT = 2
A, B = room_in("agent:a", 0, COUNT), room_in("task:b", 1, COUNT)
A2 = next(name for name in (f"agent:other{number}" for number in itertools.count()) if room_in(name, 0, COUNT) == name)


@pytest.fixture
def divided() -> Iterator[World]:
    world = World(partitions=COUNT)
    yield world
    world.close()


def record(id: str, *places: tuple[str, int], text: str = "", flags: str = SPREAD) -> bytes:
    body = f'{{"agentId":"a","thought":"{text or id}"}}'.encode()
    return Publication(f"{int(id):014x}", 1, 5, flags, Lane.LOG, "", "agent-thought",
                       tuple(Placed(room, seq, "e") for room, seq in places), body).record()


def come(world: World, room: str, data: bytes) -> None:
    world.delivery.on_record(room, data)


def sent(session: Session, room: str) -> int:
    return session.subs[room].sent


@pytest.mark.parametrize("rooms", [(A, B), (B, A)])
def test_whichever_part_comes_first(divided: World, rooms: tuple[str, str]) -> None:
    both, only = divided.client(A, B), divided.client(rooms[1])
    for number in (1, 2, 3):
        come(divided, rooms[0], record(str(number), (rooms[0], number)))
        assert len(thoughts(both)) == number
    for number in (1, 2, 3):
        come(divided, rooms[1], record(str(number), (rooms[1], number)))
    assert thoughts(both) == thoughts(only) == ["1", "2", "3"]
    assert (sent(both, A), sent(both, B)) == (3, 3), "it stands behind it in both rooms"


def test_other_events_of_the_room_are_not_touched(divided: World) -> None:
    session = divided.client(A, B)
    come(divided, A, record("1", (A, 1), flags=""))
    come(divided, B, record("1", (B, 1), flags=""))
    assert thoughts(session) == ["1", "1"]


def test_rooms_of_one_partition_are_as_ever(divided: World) -> None:
    """Both rooms of a partition stand in one record; the other partition has its own."""
    session = divided.client(A, A2, B)
    for room in (A, A2):
        come(divided, room, record("1", (A, 1), (A2, 1)))
    come(divided, B, record("1", (B, 1)))
    assert thoughts(session) == ["1"]
    assert [sent(session, room) for room in (A, A2, B)] == [1, 1, 1]


def test_who_left_the_first_room_has_it_all_the_same(divided: World) -> None:
    session = divided.client(A, B)
    come(divided, A, record("1", (A, 1)))
    divided.registry.leave(session, A)
    come(divided, B, record("1", (B, 1)))
    assert thoughts(session) == ["1"]


def test_who_joined_the_first_room_too_late_gets_it_through_the_second(divided: World) -> None:
    session, other = divided.client(B), divided.client(A)
    come(divided, A, record("1", (A, 1)))
    divided.join(session, {A: None}).release()
    come(divided, B, record("1", (B, 1)))
    assert (thoughts(session), thoughts(other)) == (["1"], ["1"])


def test_a_recovery_leaves_out_what_came_through_another_partition(divided: World) -> None:
    session, id = divided.client(B), f"{7:014x}"
    come(divided, B, record("7", (B, 1)))
    for flags, text in ((SPREAD, "7"), ("", "8")):
        body = f'{{"agentId":"a","thought":"{text}"}}'.encode()
        draft = Draft("agent-thought", (A,), body, 1, flags=flags)
        divided.backend.broker.publish([replace(draft, id=id) if flags else draft])
    epoch = divided.broker.heads([A])[A].epoch
    divided.join(session, {A: Position(epoch, 0)}).release()
    assert thoughts(session) == ["7", "8"]


def test_what_was_replayed_is_not_served_again(divided: World) -> None:
    session = divided.client(A, B)
    had = Publication(f"{9:014x}", 1, 5, SPREAD, Lane.LOG, "", "agent-thought", (Placed(A, 1, "e"),),
                      b'{"agentId":"a","thought":"9"}')
    divided.fanout.replay(session, [(A, had)])
    come(divided, B, record("9", (B, 1)))
    assert thoughts(session) == ["9"]


def test_memory_is_bounded(divided: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(had, "LIMIT", 5)
    divided.client(A, B)
    for number in range(1, 21):
        come(divided, A, record(str(number), (A, number)))
    assert len(divided.fanout.had._by_id) == 5


def test_many_members_share_what_is_remembered(divided: World) -> None:
    sessions = [divided.client(A, B) for _ in range(300)]
    divided.run(divided.fanout.run)
    for number in (1, 2):
        come(divided, A, record(str(number), (A, number)))
        come(divided, B, record(str(number), (B, number)))
    eventually(lambda: all(thoughts(session) == ["1", "2"] for session in sessions))
    assert {len(peer(session).frames) for session in sessions} == {2}


def test_the_ledger_balances() -> None:
    ledger = Ledger()
    world = World(ledger=ledger, partitions=COUNT)
    session = world.client(A, B)
    for room in (B, A):
        come(world, room, record("1", (room, 1)))
    assert ledger.explain(session.id, f"{1:014x}")["fate"] == str(Fate.DELIVERED)
    assert ledger.balance(session.id)["published"] == 1
    world.close()


def test_an_event_that_waits_in_one_partition_is_not_served_through_another(divided: World) -> None:
    session = divided.client(A, B)
    divided.throttler.user(session.user_id, 1.0)
    for number in (1, 2, 3):
        come(divided, A, record(str(number), (A, number)))
        come(divided, B, record(str(number), (B, number)))
    divided.pass_time(5)
    divided.throttler.flush()
    assert sorted(thoughts(session)) == ["1", "2", "3"]
