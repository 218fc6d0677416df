"""Who has a publication that was not recorded when it was sent."""

from __future__ import annotations

import pytest

from tests.runtime.world import World
from wsapp.core.events import Lane, Placed, Publication
from wsapp.runtime import unrecorded
from wsapp.runtime.unrecorded import Unrecorded


def publication(id: str) -> Publication:
    return Publication(id, 0, 5, "", Lane.LOG, "a", "agent-thought", (Placed("agent:a", 7, "e"),), b"{}")


def test_those_who_have_it_are_left_out_when_it_is_recorded(world: World) -> None:
    known, other = world.client("agent:a"), world.client("agent:a")
    memory = Unrecorded()
    assert not memory
    memory.remember(publication("own"), {known})
    recorded = publication("own")
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
