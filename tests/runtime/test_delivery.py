"""The fan-out: order, each event once, holes healed, and nobody who keeps another one waiting."""

from __future__ import annotations

from dataclasses import replace

import gevent
import pytest

from tests.runtime.world import World, eventually, numbers, peer, thoughts
from wsapp.core.events import Lane, Placed, Profile, Publication, publish_draft
from wsapp.core.ports import HistoryQuery, Limits
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.fanout import SLICE, published_ms


def test_members_get_everything_in_order_and_others_nothing(world: World) -> None:
    one, two, other = world.client("agent:a"), world.client("agent:a"), world.client("agent:b")
    for number in range(20):
        world.thought(number)
    assert thoughts(one) == thoughts(two) == numbers(20)
    assert peer(other).frames == []
    assert [data["seq"] for data in peer(one).of("agent-thought")] == list(range(1, 21))
    ids = [data["id"] for data in peer(one).of("agent-thought")]
    assert ids == sorted(set(ids))


def test_one_frame_object_serves_all_of_a_profile(world: World) -> None:
    plain = [world.client("agent:a") for _ in range(3)]
    sdk = [world.client("agent:a", profile=Profile.SDK) for _ in range(2)]
    offset = world.client("agent:a", profile=Profile.OFFSET)
    receipt = world.thought("x")
    assert len({id(peer(session).frames[0]) for session in plain}) == 1
    assert len({id(peer(session).frames[0]) for session in sdk}) == 1
    [[_, data, meta]] = peer(sdk[0]).events
    assert data["seq"] == 1
    assert (meta["id"], meta["rooms"]) == (receipt.id, {"agent:a": 1})
    assert peer(offset).events[0][2] == receipt.id


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


def test_a_new_epoch_is_told_to_every_member(world: World) -> None:
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


def test_a_new_epoch_before_a_member_is_live_is_told_too(world: World) -> None:
    world.client("agent:a")
    for number in range(5):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": None})
    world.pass_time(2 * 86_400)
    world.thought("anew")
    eventually(lambda: peer(session).of("resync"))
    gevent.sleep(0.01)
    recovery.release()
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


def test_a_large_room_is_served_in_slices_without_changing_the_order(world: World) -> None:
    sessions = [world.client("agent:a") for _ in range(2 * SLICE + 10)]
    world.run(world.fanout.run)
    for number in range(5):
        world.thought(number)
    eventually(lambda: len(thoughts(sessions[-1])) == 5)
    assert all(thoughts(session) == numbers(5) for session in sessions)


def test_a_small_room_does_not_wait_for_all_of_a_large_one(world: World) -> None:
    large = [world.client("agent:a") for _ in range(4 * SLICE)]
    small = world.client("agent:b")
    for number in range(10):
        world.thought(number)
    world.thought("x", agent="b")
    served: list[int] = []
    keep = peer(small).push
    small.peer.push = lambda frame: (served.append(len(peer(large[0]).frames)), keep(frame))  # type: ignore[method-assign]
    world.run(world.fanout.run)
    eventually(lambda: len(peer(large[-1]).frames) == 10)
    assert served == [1]


def test_one_room_keeps_its_order_while_its_members_come_and_go(world: World) -> None:
    sessions = [world.client("agent:a") for _ in range(SLICE + 1)]
    world.run(world.fanout.run)
    world.thought(0)
    late = world.client("agent:a")
    world.registry.leave(sessions[0], "agent:a")
    world.thought(1)
    eventually(lambda: thoughts(late) == ["1"] and len(thoughts(sessions[-1])) == 2)
    assert thoughts(sessions[0]) in ([], ["0"])


def test_a_session_that_has_gone_leaves_nothing_in_the_throttle(throttled: World) -> None:
    """Its slice comes after it was disconnected."""
    sessions = [throttled.client("agent:a", user=f"u{number}") for number in range(SLICE + 1)]
    for number in range(4):
        throttled.thought(number)
    throttled.connections.handle_disconnection(sessions[-1].sid)
    throttled.run(throttled.fanout.run)
    eventually(lambda: not throttled.registry.rooms["agent:a"].pending)
    assert throttled.throttler.get_queue_depth(f"u{SLICE}") == 0


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


def test_thoughts_over_the_rate_come_as_one_array_for_plain_clients(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    for number in range(7):
        throttled.thought(number)
    throttled.throttler.flush(throttled.clock() + 1)
    assert [type(data) for data in peer(session).of("agent-thought")] == [dict, dict, list]
    assert thoughts(session) == numbers(7)
    assert [data["seq"] for data in peer(session).of("agent-thought")[2]] == [3, 4, 5, 6, 7]


def test_a_task_over_the_rate_comes_as_its_latest(throttled: World) -> None:
    session = throttled.client("task:t", user="u")
    for number in range(7):
        throttled.task(number)
    throttled.throttler.flush(throttled.clock() + 1)
    assert [data["progress"] for data in peer(session).of("task-update")] == [0, 1, 6]


def test_the_sdk_gets_one_batch_for_all_that_waits(throttled: World) -> None:
    session = throttled.client("agent:a", "task:t", user="u", profile=Profile.SDK)
    for number in range(4):
        throttled.thought(number)
        throttled.task(number)
    throttled.throttler.flush(throttled.clock() + 1)
    assert [event[0] for event in peer(session).events] == ["agent-thought", "task-update", "batch"]
    [batch] = peer(session).of("batch")
    assert {name for name, _, _ in batch} == {"agent-thought", "task-update"}
    assert thoughts(session) == numbers(4)
    assert all(meta["rooms"] for _, _, meta in batch)


def test_waiting_sessions_with_the_same_content_share_the_frame(throttled: World) -> None:
    one, two = throttled.client("agent:a", user="u"), throttled.client("agent:a", user="v")
    for number in range(5):
        throttled.thought(number)
    throttled.throttler.flush(throttled.clock() + 1)
    assert peer(one).frames[-1] is peer(two).frames[-1]


def test_what_is_shed_is_told_and_adds_up(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    for number in range(20):
        throttled.thought(number)
    throttled.pass_time(1)
    throttled.throttler.flush(throttled.clock())
    sheds = peer(session).of("shed")
    assert {shed["reason"] for shed in sheds} == {"items"}
    assert sum(shed["count"] for shed in sheds) + len(thoughts(session)) == 20
    gone = {seq for shed in sheds for seq in range(shed["from"], shed["to"] + 1)}
    assert gone == set(range(3, 13))
    assert throttled.metrics.shed == 10


def test_critical_events_do_not_wait(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    for number in range(4):
        throttled.thought(number)
    throttled.thought("fire", priority=9)
    assert thoughts(session) == ["0", "1", "fire"]


def test_the_flush_loop_sends_what_waits(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    throttled.run(throttled.fanout.flush_forever)
    gevent.sleep(0)
    for number in range(4):
        throttled.thought(number)
    eventually(lambda: len(thoughts(session)) == 4)
    assert thoughts(session) == numbers(4)


def test_an_unrecorded_publication_is_not_sent_again_when_it_is_recorded(world: World) -> None:
    one, two = world.client("agent:a"), world.client("agent:a", "project:p")
    draft = world.publisher.thought({"agentId": "a", "thought": "away"}, also_to=["project:p"])
    draft = replace(draft, id="00000000000001abc")
    unplaced = tuple(Placed(room, 0, "") for room in draft.rooms)
    world.fanout.serve_unrecorded(publish_draft(replace(draft, flags="i"), draft.id, unplaced))
    late = world.client("agent:a")
    [receipt] = world.backend.broker.publish([draft])
    world.thought("after")
    assert receipt.id == draft.id
    assert thoughts(one) == thoughts(two) == ["away", "after"]
    assert thoughts(late) == ["away", "after"]
    first = peer(one).of("agent-thought")[0]
    assert first["id"] == draft.id
    assert "seq" not in first
    assert one.subs["agent:a"].sent == 2


def test_the_counters_follow(world: World) -> None:
    world.client("agent:a")
    world.client("agent:a")
    receipt = world.thought("x")
    assert (world.metrics.sent, world.metrics.delivered, world.metrics.latency_count) == (2, 2, 2)
    publication = world.broker.read([HistoryQuery("agent:a")])[0].publications[0]
    assert publication.id == receipt.id
    assert published_ms(publication) == int(receipt.id, 16) / 1024
