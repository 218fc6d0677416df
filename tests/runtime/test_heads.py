"""A lost last message is found by the heads of the rooms, and sdk clients are told them."""

from __future__ import annotations

import pytest

from tests.runtime.world import World, eventually, numbers, peer, thoughts
from wsapp.core.events import Position, Profile
from wsapp.errors import BrokerUnavailable
from wsapp.runtime import heads
from wsapp.runtime.delivery import behind
from wsapp.runtime.heads import Heads


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "GRACE", 0.0)


@pytest.mark.parametrize("lost", [{3}, {2, 3}, {1, 2, 3}])
def test_a_lost_last_message_is_found(world: World, lost: set[int]) -> None:
    session = world.client("agent:a")
    world.lost = lambda _room, seq: seq in lost
    for number in range(3):
        world.thought(number)
    assert len(thoughts(session)) < 3
    Heads(world.delivery).check()
    eventually(lambda: thoughts(session) == numbers(3))
    assert world.metrics.healed >= 1


def test_rooms_that_are_where_they_should_be_are_not_read(world: World) -> None:
    session = world.client("agent:a", "agent:b")
    world.thought("x")
    reads = world.broker.reads
    Heads(world.delivery).check()
    assert (world.broker.reads, thoughts(session)) == (reads, ["x"])


def test_a_room_in_which_something_comes_needs_no_asking(world: World) -> None:
    """The next record shows a hole; a last one that is lost is found at the next look but one."""
    session = world.client("agent:a", "agent:b")
    asked: list[list[str]] = []
    heads_of = world.broker.heads
    world.broker.heads = lambda rooms: asked.append(sorted(rooms)) or heads_of(rooms)  # type: ignore[method-assign,func-returns-value]
    heads = Heads(world.delivery)
    heads.check()
    world.thought("0")
    heads.check()
    world.lost = lambda _room, seq: seq == 2
    world.thought("1")
    heads.check()
    assert asked == [["agent:a", "agent:b"], ["agent:b"], ["agent:a", "agent:b"]]
    eventually(lambda: thoughts(session) == numbers(2))


def test_more_rooms_than_fit_into_one_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "ROOMS_AT_ONCE", 3)
    sessions = [world.client(f"agent:{number}") for number in range(8)]
    world.lost = lambda _room, _seq: True
    for number in range(8):
        world.thought("x", agent=str(number))
    Heads(world.delivery).check()
    eventually(lambda: all(thoughts(session) == ["x"] for session in sessions))


def test_a_room_that_lost_its_history_is_told(world: World) -> None:
    session = world.client("agent:a")
    world.thought("x")
    world.backend.broker._rooms.clear()  # type: ignore[attr-defined]
    Heads(world.delivery).check()
    eventually(lambda: [told["reason"] for told in peer(session).of("resync")] == ["epoch"])
    world.thought("y")
    eventually(lambda: thoughts(session) == ["x", "y"])


def test_a_broker_that_is_away_is_the_callers_to_handle(world: World) -> None:
    class Away:
        def heads(self, _rooms: object) -> dict[str, Position]:
            raise BrokerUnavailable("away")

    world.client("agent:a")
    world.delivery.broker = Away()  # type: ignore[assignment]
    with pytest.raises(BrokerUnavailable):
        Heads(world.delivery).check()


def test_the_beacon_goes_to_the_sdk_profile_only(world: World) -> None:
    plain = world.client("agent:a")
    sdk = [world.client("agent:a", "task:t", profile=Profile.SDK) for _ in range(2)]
    roomless = world.client(profile=Profile.SDK)
    receipt = world.thought("x")
    told = Heads(world.delivery)
    told.beacon(world.connections.sessions())
    [beacon] = peer(sdk[0]).of("beacon")
    assert beacon["rooms"]["agent:a"] == {"epoch": receipt.places[0].epoch, "seq": 1}
    assert beacon["rooms"]["task:t"]["seq"] == 0
    assert peer(sdk[0]).frames[-1] is peer(sdk[1]).frames[-1]
    assert not any(peer(session).of("beacon") for session in (plain, roomless))


def test_the_beacon_tells_what_the_worker_has_not_got_yet(world: World) -> None:
    session = world.client("agent:a", profile=Profile.SDK)
    world.lost = lambda _room, _seq: True
    world.thought("x")
    told = Heads(world.delivery)
    told.check()
    told.beacon([session])
    assert peer(session).of("beacon")[0]["rooms"]["agent:a"]["seq"] in (0, 1)
    eventually(lambda: thoughts(session) == ["x"])
    told.beacon([session])
    assert peer(session).of("beacon")[-1]["rooms"]["agent:a"]["seq"] == 1


@pytest.mark.parametrize(("position", "head", "news"), [
    (Position("e", 3), Position("e", 3), False), (Position("e", 3), Position("e", 2), False),
    (Position("e", 3), Position("e", 4), True), (Position("e", 3), Position("f", 1), True),
    (Position("", 0), Position("", 0), False), (Position("e", 3), Position("", 0), True)])
def test_what_is_news(position: Position, head: Position, news: bool) -> None:
    assert behind(position, head) is news
