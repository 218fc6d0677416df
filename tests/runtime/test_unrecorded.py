"""Who has a publication that was not recorded when it was sent."""

from __future__ import annotations

import pytest

from tests.runtime.world import World, peer
from wsapp.core.events import Draft, Lane, Placed, Publication
from wsapp.runtime import unrecorded
from wsapp.runtime.unrecorded import Unrecorded


def publication(id: str, origin: str = "") -> Publication:
    return Publication(id, 0, 5, "", Lane.LOG, "a", "agent-thought", (Placed("agent:a", 7, "e"),), b"{}", origin)


def test_those_who_have_it_are_left_out_when_it_is_recorded_under_another_id(world: World) -> None:
    known, other = world.client("agent:a"), world.client("agent:a")
    memory = Unrecorded()
    assert not memory
    memory.remember(publication("own"), {known})
    recorded = publication("given", origin="own")
    subs = [session.subs["agent:a"] for session in (known, other)]
    assert memory
    assert memory.holds(recorded)
    assert memory.others(recorded, 7, subs) == [other.subs["agent:a"]]
    assert [sub.sent for sub in subs] == [7, 0]
    assert memory.others(publication("unheard"), 8, subs) is subs


def test_one_who_has_come_further_meanwhile_stays_there(world: World) -> None:
    session = world.client("agent:a")
    memory = Unrecorded()
    memory.remember(publication("own"), {session})
    session.subs["agent:a"].sent = 9
    assert memory.others(publication("own"), 7, [session.subs["agent:a"]]) == []
    assert session.subs["agent:a"].sent == 9


def test_of_very_many_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded, "LIMIT", 3)
    memory = Unrecorded()
    for id in "abcd":
        memory.remember(publication(id), set())
    assert [memory.holds(publication(id)) for id in "abcd"] == [False, True, True, True]


@pytest.mark.parametrize("rooms", [("agent:a",), ("agent:a", "agent:b")])
def test_who_saw_it_on_another_connection_gets_it_again_under_that_id(world: World, rooms: tuple[str, ...]) -> None:
    back, other = world.client(*rooms), world.client(*rooms)
    back.has_seen("own")
    world.fanout.unrecorded.expect(back)
    [receipt] = world.broker.publish([Draft("x", rooms, b"{}", 1, flags="i", origin="own")])
    world.thought("later", agent="a")
    assert [event[1]["id"] for event in peer(back).events][:1] == ["own"]
    assert [event[1]["id"] for event in peer(other).events][:1] == [receipt.id]
    assert [len(peer(session).events) for session in (back, other)] == [2, 2]


def test_what_is_expected_is_bounded_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded, "LIMIT", 3)
    session, memory = world.client(), Unrecorded()
    session.seen = tuple("abcdef")
    memory.expect(session)
    assert [memory.holds(publication(id)) for id in "abcdef"] == [False] * 3 + [True] * 3
