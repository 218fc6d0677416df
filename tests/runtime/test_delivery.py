"""The fan-out: order, each event once, holes healed, and nobody who keeps another one waiting."""

from __future__ import annotations

import gevent
import pytest

from tests.runtime.world import World, eventually, numbers, peer, thoughts
from wsapp.core.events import Lane, Publication
from wsapp.core.ports import Limits
from wsapp.core.room_log import MAX_ITEMS
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.fanout import FEW


def test_members_get_everything_in_order_and_others_nothing(world: World) -> None:
    one, two, other = world.client("agent:a"), world.client("agent:a"), world.client("agent:b")
    for number in range(20):
        world.thought(number)
    assert thoughts(one) == thoughts(two) == numbers(20)
    assert peer(other).frames == []
    assert [data["seq"] for data in peer(one).of("agent-thought")] == list(range(1, 21))
    ids = [data["id"] for data in peer(one).of("agent-thought")]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("rooms", [("agent:a", "project:p"), ("project:p", "agent:a"), ("project:p", "task:t")])
def test_an_event_for_several_rooms_comes_once(world: World, rooms: tuple[str, ...]) -> None:
    session = world.client(*rooms)
    for number in range(5):
        world.thought(number, also_to=["task:t", "project:p"])
    assert thoughts(session) == numbers(5)


def test_a_member_of_the_other_room_only_sees_that_rooms_number(world: World) -> None:
    session = world.client("project:p")
    world.thought("elsewhere")
    world.thought("both", also_to=["project:p"])
    [data] = peer(session).of("agent-thought")
    assert (data["thought"], data["seq"]) == ("both", 1)


def test_an_event_of_a_room_that_is_being_joined_still_comes_through_the_other(world: World) -> None:
    """Home agent:a is just being opened for the session: what is published before it stands must not be left to it."""
    session = world.client("project:p")
    world.broker.before.append(lambda: world.thought("now", also_to=["project:p"]))
    world.join(session, {"agent:a": None}).release()
    world.thought("later", also_to=["project:p"])
    assert thoughts(session) == ["now", "later"]


def test_a_hole_is_healed_in_order(world: World) -> None:
    session = world.client("agent:a")
    world.lost = lambda _room, seq: seq in (3, 4)
    for number in range(6):
        world.thought(number)
    eventually(lambda: len(thoughts(session)) == 6)
    assert thoughts(session) == numbers(6)
    assert world.metrics.healed >= 2
    world.thought(6)
    assert thoughts(session) == numbers(7)


def test_what_is_published_while_a_hole_is_healed_keeps_its_place(world: World) -> None:
    session = world.client("agent:a")
    world.lost = lambda _room, seq: seq == 2
    world.broker.during += [lambda: [world.thought(number) for number in (3, 4)]]
    for number in range(3):
        world.thought(number)
    eventually(lambda: len(thoughts(session)) == 5)
    assert thoughts(session) == numbers(5)


def test_a_hole_waits_for_the_broker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapp.runtime.delivery.HEAL_PAUSE", 0.005)

    def away() -> None:
        raise BrokerUnavailable("away")

    session = world.client("agent:a")
    world.lost = lambda _room, seq: seq == 2
    world.broker.before += [away, away]
    for number in range(4):
        world.thought(number)
    eventually(lambda: len(thoughts(session)) == 4)
    assert thoughts(session) == numbers(4)


def test_a_gap_of_the_live_connection_is_read_again(world: World) -> None:
    session = world.client("agent:a")
    world.lost = lambda _room, _seq: True
    for number in range(4):
        world.thought(number)
    world.lost = lambda _room, _seq: False
    assert thoughts(session) == []
    world.delivery.on_gap()
    eventually(lambda: len(thoughts(session)) == 4)
    assert thoughts(session) == numbers(4)


def test_a_record_that_comes_twice_is_delivered_once(world: World) -> None:
    session = world.client("agent:a")
    receipt = world.thought("x")
    again = Publication(receipt.id, 1, 5, "", Lane.LOG, "a", "agent-thought", receipt.places, b'{"thought":"x"}')
    world.delivery.on_record("agent:a", again.record())
    assert thoughts(session) == ["x"]


def test_a_new_epoch_is_told_to_every_member(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one, two = world.client("agent:a"), world.client("agent:a")
    world.thought(0)
    world.pass_time(2 * 86_400)  # the room's numbering lapses
    receipt = world.thought("anew")
    eventually(lambda: peer(one).of("resync"))
    place = receipt.places[0]
    told = {"room": "agent:a", "epoch": place.epoch, "seq": 0, "reason": "epoch", "missed": 1}
    assert peer(one).of("resync") == peer(two).of("resync") == [told]
    world.thought("goes on")
    eventually(lambda: len(thoughts(one)) == 3)
    assert thoughts(one) == thoughts(two) == ["0", "anew", "goes on"]
    assert [event[0] for event in peer(one).events] == ["agent-thought", "resync", "agent-thought", "agent-thought"]
    assert "how much was published in between is unknown" in caplog.text
    assert "0 missed" not in caplog.text


def test_a_new_epoch_before_a_member_is_live_is_told_too(world: World) -> None:
    world.client("agent:a")
    for number in range(5):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": None})
    world.pass_time(2 * 86_400)
    world.thought("anew")
    eventually(lambda: world.registry.rooms["agent:a"].join is None)
    recovery.release()
    assert len(peer(session).of("resync")) == 1
    assert thoughts(session) == ["anew"]


def test_a_hole_past_what_history_keeps_is_told_not_hidden() -> None:
    world = World(limits=Limits(history_size=3))
    session = world.client("agent:a")
    world.lost = lambda _room, seq: seq < 10
    for number in range(10):
        world.thought(number)
    [told] = eventually(lambda: peer(session).of("resync"))
    assert (told["reason"], told["missed"], told["seq"]) == ("trimmed", 10, 10)
    assert thoughts(session) == []
    world.close()


def test_vacant_rooms_are_not_followed_any_more(world: World) -> None:
    session, stays = world.client("agent:a", "agent:b"), world.client("agent:b")
    world.delivery.close_vacant()
    assert world.broker.unsubscribed == []
    world.registry.leave_all(session)
    world.delivery.close_vacant()
    assert world.broker.unsubscribed == ["agent:a"]
    assert list(world.registry.rooms) == ["agent:b"]
    world.thought("x", agent="b")
    assert thoughts(stays) == ["x"]
    again = world.client("agent:a")
    world.thought("y")
    assert thoughts(again) == ["y"]


def test_rooms_are_opened_once_and_together(world: World) -> None:
    world.client("agent:a", "agent:b", "agent:c")
    assert sorted(world.broker.subscribed) == ["agent:a", "agent:b", "agent:c"]
    reads = world.broker.reads
    world.client("agent:a", "agent:b", "agent:c")
    assert len(world.broker.subscribed) == 3
    assert world.broker.reads == reads


def test_a_room_that_cannot_be_opened_takes_nobody_in(world: World) -> None:
    def away() -> None:
        raise BrokerUnavailable("away")

    session = world.client()
    world.broker.before.append(away)
    with pytest.raises(BrokerUnavailable):
        world.join(session, {"agent:a": None})
    assert session.subs == {}
    world.join(session, {"agent:a": None}).release()
    world.thought("x")
    assert thoughts(session) == ["x"]


def test_more_than_can_be_passed_on_is_reported_and_stays_in_the_history(world: World) -> None:
    """The log of a room is bounded: a worker that is overloaded reports what its members do not get."""
    sessions = [world.client("agent:a") for _ in range(FEW + 1)]
    for number in range(MAX_ITEMS + 500):
        world.thought(number)
    room = world.registry.rooms["agent:a"]
    assert len(room.log.after(0, room.log.head)) <= MAX_ITEMS
    world.run(world.fanout.run, world.fanout.flusher.run)
    eventually(lambda: all(thoughts(session)[-1:] == [str(MAX_ITEMS + 499)] for session in sessions))
    for session in sessions:
        shed = sum(report["count"] for report in peer(session).of("shed"))
        assert shed >= 500 and shed + len(thoughts(session)) == MAX_ITEMS + 500


def test_who_has_read_further_in_the_history_than_the_worker_gets_nothing_twice(world: World) -> None:
    session = world.client("agent:a")
    world.thought(0)
    [sub] = session.subs.values()
    sub.sent = 2
    world.thought(1)
    world.thought(2)
    assert thoughts(session) == ["0", "2"]


def test_what_waits_of_a_lost_history_goes_with_it(throttled: World) -> None:
    """It would come after the resync, with numbers of the old history, and hold the new positions back."""
    session = throttled.client("agent:a", "agent:b")
    for number in range(6):
        throttled.thought(number)
    throttled.thought("other", agent="b")
    assert thoughts(session) == numbers(2)
    throttled.pass_time(2 * 86_400)
    throttled.thought("anew")
    eventually(lambda: peer(session).of("resync"))
    [told] = peer(session).of("resync")
    assert (told["room"], told["seq"], told["missed"]) == ("agent:a", 0, 1 + 4)
    for _ in range(5):
        throttled.pass_time(60)
        throttled.throttler.flush()
    eventually(lambda: len(thoughts(session)) == 4)
    assert thoughts(session) == [*numbers(2), "other", "anew"]
    assert session.subs["agent:a"].position() == 1




def interleaved(world: World) -> list[str]:
    """Events of a, b, and both with either as their home; their texts in publish order."""
    texts = []
    for number in range(12):
        home, other = ("ab", "ba")[number // 2 % 2]
        world.thought(number, agent=home, also_to=[f"agent:{other}"] if number % 2 else [])
        texts.append(str(number))
    return texts


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_order_over_two_rooms_holds_while_both_are_healed(world: World, slow: int) -> None:
    """After a gap every room reads on by itself: what comes through a slow one is not overtaken in the other."""
    session, bystander = world.client("agent:a", "agent:b"), world.client("agent:b")
    world.thought("begin", agent="a")
    world.thought("begin", agent="b")
    world.lost = lambda _room, _seq: True
    texts = interleaved(world)
    world.lost = lambda _room, _seq: False
    world.broker.before += [*[lambda: None] * slow, lambda: gevent.sleep(0.03)]
    world.delivery.on_gap()
    gevent.sleep(0)
    world.thought("live", agent="b")
    eventually(lambda: "live" in thoughts(session))
    assert thoughts(session) == ["begin", "begin", *texts, "live"]
    eventually(lambda: "live" in thoughts(bystander))
    assert thoughts(bystander) == ["begin", *[text for text in texts if text not in ("0", "4", "8")], "live"]


def test_order_over_two_rooms_holds_while_the_home_is_healed(world: World) -> None:
    session = world.client("agent:a", "agent:b")
    world.thought("0", agent="a")
    world.lost = lambda room, seq: room == "agent:a" and seq == 2
    world.broker.before.append(lambda: gevent.sleep(0.03))
    world.thought("1", agent="a")
    world.thought("2", agent="a")  # shows the hole
    gevent.sleep(0)
    world.thought("3", agent="a", also_to=["agent:b"])
    world.thought("4", agent="b")
    world.thought("5", agent="b")
    eventually(lambda: len(thoughts(session)) == 6)
    assert thoughts(session) == numbers(6)
    world.thought("6", agent="b")
    assert thoughts(session) == numbers(7)


def test_a_room_does_not_wait_for_ever_for_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapp.runtime.delivery.PRECEDENCE", 0.02)
    session = world.client("agent:a", "agent:b")
    hold = gevent.event.Event()
    world.thought("0", agent="a")
    world.lost = lambda room, seq: room == "agent:a" and seq == 2
    world.broker.before.append(lambda: hold.wait())
    world.thought("1", agent="a")
    world.thought("2", agent="a", also_to=["agent:b"])
    gevent.sleep(0)
    world.thought("3", agent="b")
    eventually(lambda: thoughts(session) == ["0", "3"])
    hold.set()
    eventually(lambda: len(thoughts(session)) == 4)


def test_rooms_that_read_on_wait_for_the_link_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Redis is away one probe asks for all rooms, and not each room by itself."""
    monkeypatch.setattr("wsapp.runtime.delivery.HEAL_PAUSE", 0.005)
    monkeypatch.setattr("wsapp.runtime.outlet.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("wsapp.runtime.outlet.LONGEST_PAUSE", 0.001)
    rooms = [f"agent:{number}" for number in range(30)]
    session = world.client(*rooms)
    world.lost = lambda _room, _seq: True
    for number in range(30):
        world.thought("missed", agent=str(number))
    reads = world.broker.reads
    world.broker.before += [_away] * 300
    world.delivery.on_gap()
    eventually(lambda: len(thoughts(session)) == 30)
    assert world.broker.reads - reads <= 30 + 30 + 30, "each room once, what began meanwhile, and once after the return"


def _away() -> None:
    raise BrokerUnavailable("away")
