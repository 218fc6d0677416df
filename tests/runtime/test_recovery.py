"""Joining from a position: replay, then what was held, then live; never partial, nothing twice."""

from __future__ import annotations

import gevent
import pytest

from tests.runtime.world import World, eventually, numbers, peer, thoughts
from wsapp.core.catch_up import Pace
from wsapp.core.events import Position, Profile
from wsapp.core.ports import HistoryQuery, Limits
from wsapp.core.session import Session, State
from wsapp.errors import BrokerUnavailable
from wsapp.runtime import recovery as module


def position(world: World, seq: int, room: str = "agent:a") -> Position:
    return Position(world.backend.broker.read([HistoryQuery(room)])[0].head.epoch, seq)


def away() -> None:
    raise BrokerUnavailable("away")


def test_nothing_is_sent_before_release(world: World) -> None:
    for number in range(3):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": position(world, 1)})
    world.thought(3)
    assert peer(session).frames == []
    assert recovery.outcome() == {"recovered": True, "missed": 2}
    assert recovery.positions["agent:a"].seq == 3
    recovery.release()
    world.thought(4)
    assert thoughts(session) == numbers(1, 5)


def test_joining_without_a_position_begins_now(world: World) -> None:
    world.thought("past")
    session = world.client("agent:a")
    world.thought("now")
    assert thoughts(session) == ["now"]
    assert session.subs["agent:a"].confirmed == 1


@pytest.mark.parametrize("watched", [False, True], ids=["a room nobody watched", "a room that is open"])
def test_what_is_published_while_history_is_read_comes_once_and_in_order(world: World, watched: bool) -> None:
    if watched:
        world.client("agent:a")
    for number in range(3):
        world.thought(number)
    session = world.client()
    if watched:
        world.forget("agent:a")
    world.broker.before += [lambda: world.thought(3), lambda: world.thought(5)]
    world.broker.during += [lambda: world.thought(4), lambda: world.thought(6)]
    recovery = world.join(session, {"agent:a": position(world, 0)})
    missed = recovery.outcome()["missed"]
    world.thought("tail")
    recovery.release()
    world.thought("live")
    got = thoughts(session)
    assert got == [*numbers(len(got) - 2), "tail", "live"]
    assert len(got) == len(set(got))
    assert len(got) == missed + 2 >= 7


@pytest.mark.parametrize("when", ["before", "during"])
def test_everything_is_there_however_the_client_joins(world: World, when: str) -> None:
    """From a position, an event published at any point of the join is sent exactly once."""
    world.thought(0)
    for _ in range(3):
        session = world.client()
        getattr(world.broker, when).append(lambda: world.thought("x"))
        world.join(session, {"agent:a": position(world, 0)}).release()
        world.thought("y")
        seqs = [data["seq"] for data in peer(session).of("agent-thought")]
        assert seqs == list(range(1, len(seqs) + 1))
        assert seqs[-1] == position(world, 0)._replace(seq=seqs[-1]).seq


def test_a_long_history_is_read_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 10)
    for number in range(95):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": position(world, 0)})
    assert recovery.outcome()["missed"] == 95
    recovery.release()
    assert thoughts(session) == numbers(95)


def test_several_rooms_are_replayed_in_publish_order_each_event_once(world: World) -> None:
    for number in range(10):
        world.thought(number, agent="ab"[number % 2], also_to=["project:p"] if number % 3 == 0 else [])
    session = world.client()
    recovery = world.join(session, {room: position(world, 0, room) for room in ("project:p", "agent:b", "agent:a")})
    assert recovery.outcome()["missed"] == 10
    recovery.release()
    assert thoughts(session) == numbers(10)


@pytest.mark.parametrize("home", ["a", "b"])
def test_an_event_held_in_one_room_and_replayed_in_another_comes_once(world: World, home: str) -> None:
    """agent:a is up to date, agent:b is not: the event comes while the history of agent:b is being read."""
    for agent in "ab":
        world.client(f"agent:{agent}")
        world.thought("old", agent=agent)
    session = world.client()
    other = "b" if home == "a" else "a"
    world.forget("agent:b")
    world.broker.before.append(lambda: world.thought("both", agent=home, also_to=[f"agent:{other}"]))
    recovery = world.join(session, {"agent:a": position(world, 1), "agent:b": position(world, 0, "agent:b")})
    recovery.release()
    world.thought("live", agent="a", also_to=["agent:b"])
    assert thoughts(session) == ["old", "both", "live"]


@pytest.mark.parametrize("home", ["a", "b"])
@pytest.mark.parametrize("opened", [False, True], ids=["room to be opened", "room open"])
def test_an_event_of_a_live_and_a_recovering_room_comes_once(world: World, home: str, opened: bool) -> None:
    session = world.client("agent:a")
    if opened:
        world.client("agent:b")
    world.thought("old", agent="b")
    other = "b" if home == "a" else "a"
    both = {"agent": home, "also_to": [f"agent:{other}"]}
    if opened:
        world.forget("agent:b")
    world.broker.before.append(lambda: world.thought("both", **both))
    world.join(session, {"agent:b": position(world, 0, "agent:b")}).release()
    world.thought("live", **both)
    assert sorted(thoughts(session)) == ["both", "live", "old"]


@pytest.mark.parametrize(("since", "reason", "missed"), [
    (Position("another", 3), "epoch", 10), (Position("", 99), "ahead", 0), (Position("", 0), "trimmed", 10)])
def test_a_refusal_is_told_with_reason_and_count_and_nothing_is_replayed(since: Position, reason: str,
                                                                         missed: int) -> None:
    world = World(limits=Limits(history_size=5))
    for number in range(10):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": since})
    assert recovery.outcome() == {"recovered": False, "reason": reason, "missed": missed}
    recovery.release()
    assert peer(session).frames == []
    world.thought("live")
    assert thoughts(session) == ["live"]
    assert session.subs["agent:a"].confirmed == 10
    world.close()


def test_more_than_is_replayed_is_refused_as_a_whole() -> None:
    world = World(max_replay=5)
    for number in range(6):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": position(world, 0)})
    recovery.release()
    assert recovery.outcome() == {"recovered": False, "reason": "too_many", "missed": 6}
    assert thoughts(session) == []
    one_less = world.client()
    world.join(one_less, {"agent:a": position(world, 1)}).release()
    assert thoughts(one_less) == numbers(1, 6)
    world.close()


def test_confirmed_stands_where_the_client_said_until_a_pong(world: World) -> None:
    for number in range(4):
        world.thought(number)
    session = world.client()
    world.join(session, {"agent:a": position(world, 1)}).release()
    assert session.positions()["agent:a"].seq == 1
    session.pinging()
    session.ponged(0.0)
    assert session.positions()["agent:a"].seq == 4


def test_joining_again_proves_nothing(world: World) -> None:
    """What was sent but not confirmed must stay replayable (G5)."""
    session = world.client("agent:a")
    for number in range(3):
        world.thought(number)
    recovery = world.join(session, {"agent:a": None})
    assert recovery.positions["agent:a"].seq == 3
    recovery.release()
    assert session.positions()["agent:a"].seq == 0
    world.thought(3)
    assert thoughts(session) == numbers(4)


def test_a_room_that_could_not_be_read_is_left_again(world: World) -> None:
    world.client("agent:a")
    world.thought(0)
    session = world.client()
    world.forget("agent:a")
    world.broker.before.append(away)
    with pytest.raises(BrokerUnavailable):
        world.join(session, {"agent:a": position(world, 0)})
    assert session.subs == {}
    world.thought(1)
    assert thoughts(session) == []


def test_a_member_whose_second_join_fails_stays_live(world: World) -> None:
    session = world.client("agent:a")
    world.thought(0)
    world.forget("agent:a")
    world.broker.before.append(lambda: (world.thought(1), away()))
    with pytest.raises(BrokerUnavailable):
        world.join(session, {"agent:a": position(world, 0)})
    world.thought(2)
    assert session.subs["agent:a"].state is State.LIVE
    assert not peer(session).of("resync")
    assert thoughts(session) == ["0", "1", "2"]
    assert session.positions()["agent:a"].seq == 0


def test_leaving_before_release_ends_it(world: World) -> None:
    session = world.client()
    recovery = world.join(session, {"agent:a": None})
    world.thought(0)
    world.registry.leave(session, "agent:a")
    recovery.release()
    world.thought(1)
    assert thoughts(session) == []


def test_a_replay_waits_for_a_client_that_does_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 10)
    for number in range(30):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": position(world, 0)})
    peer(session).waiting = module.CROWDED + 1
    replay = gevent.spawn(recovery.release)
    gevent.sleep(0.01)
    assert len(peer(session).frames) == 10
    world.thought(30)
    peer(session).waiting = 0
    eventually(lambda: replay.dead)
    assert thoughts(session) == numbers(31)


def test_a_replay_ends_with_its_client(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 10)
    for number in range(30):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": position(world, 0)})
    peer(session).waiting = module.CROWDED + 1
    replay = gevent.spawn(recovery.release)
    gevent.sleep(0.01)
    world.connections.handle_disconnection(session.sid)
    eventually(lambda: replay.dead)


# -- a long absence


def long_absence(world: World, profile: Profile = Profile.PLAIN, **pace: int) -> Session:
    """Twelve thoughts and eight updates of two tasks, in one room; more than ten of a room are too many."""
    world.delivery.pace = Pace(**{"limit": 10, "tail": 4, **pace})
    for number in range(6):
        world.thought(2 * number, also_to=["project:p"])
        world.task(number, f"t{number % 2}", also_to=["project:p"])
    for number in range(6):
        world.thought(f"new {number}", also_to=["project:p"])
    session = world.client(profile=profile)
    recovery = world.join(session, {"project:p": position(world, 0, "project:p")})
    recovery.pace(world.delivery.pace)
    session.metadata["told"] = recovery.outcome()
    recovery.release()
    return session


@pytest.mark.parametrize("profile", [Profile.PLAIN, Profile.SDK])
def test_a_long_absence_brings_the_states_what_was_skipped_and_the_newest(world: World, profile: Profile) -> None:
    session = long_absence(world, profile)
    assert session.metadata["told"] == {"recovered": True, "missed": 18, "skipped": 12}
    [shed] = peer(session).of("shed")
    assert shed == {"room": "project:p", "from": 1, "to": 14, "count": 12, "reason": "catch-up", "worstPriority": 5}
    assert [event[0] for event in peer(session).events] == ["task-update"] * 2 + ["shed"] + ["agent-thought"] * 4
    assert [(data["taskId"], data["progress"]) for data in peer(session).of("task-update")] == [("t0", 4), ("t1", 5)]
    assert thoughts(session) == [f"new {number}" for number in range(2, 6)]
    page = world.broker.read([HistoryQuery("project:p", shed["from"] - 1, shed["to"])])[0]
    assert len(page.publications) == 14, "the rest is there on demand"
    session.pinging()
    session.ponged(0.0)
    assert session.positions()["project:p"].seq == 18
    world.thought("live", also_to=["project:p"])
    assert thoughts(session)[-1] == "live"


def test_up_to_the_limit_everything_comes(world: World) -> None:
    session = long_absence(world, limit=18)
    assert session.metadata["told"] == {"recovered": True, "missed": 18}
    assert peer(session).of("shed") == []
    assert len(peer(session).events) == 18
    unlimited = long_absence(world, limit=0)
    assert len(peer(unlimited).events) == 36


def test_critical_events_of_the_skipped_range_are_not_skipped(world: World) -> None:
    world.delivery.pace = Pace(3, 1)
    alarm = world.thought("!", critical=True, priority=9)
    for number in range(6):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": position(world, 0)})
    recovery.pace(world.delivery.pace)
    recovery.release()
    [shed] = peer(session).of("shed")
    assert (shed["from"], shed["to"], shed["count"]) == (2, 6, 5)
    assert thoughts(session) == ["!", "5"]
    assert peer(session).of("agent-thought")[0]["id"] == alarm.id


def test_what_is_skipped_in_one_room_may_come_through_another(world: World) -> None:
    """agent:a has few, project:p many: those of both come through agent:a and are not told as skipped."""
    world.delivery.pace = Pace(5, 1)
    for number in range(10):
        world.thought(number, agent="a" if number < 3 else "b", also_to=["project:p"])
    session = world.client()
    recovery = world.join(session, {room: position(world, 0, room) for room in ("project:p", "agent:a")})
    recovery.pace(world.delivery.pace)
    assert recovery.outcome() == {"recovered": True, "missed": 10, "skipped": 6}
    recovery.release()
    assert thoughts(session) == ["0", "1", "2", "9"]
    [shed] = peer(session).of("shed")
    assert (shed["from"], shed["to"], shed["count"]) == (4, 9, 6)


def test_when_one_room_is_refused_nothing_is_replayed_but_what_must_be_acknowledged(world: World) -> None:
    for number in range(4):
        world.thought(number, critical=number == 2)
    session = world.client()
    recovery = world.join(session, {"agent:b": Position("gone", 3), "agent:a": position(world, 0)})
    recovery.pace(world.delivery.pace)
    recovery.release()
    assert recovery.outcome() == {"recovered": False, "reason": "epoch", "missed": 4}
    assert thoughts(session) == ["2"]
    assert session.positions()["agent:a"].seq == 4


def test_a_replay_goes_out_in_few_pieces_and_lets_others_have_their_turn(world: World) -> None:
    for number in range(300):
        world.thought(number)
    sessions = [world.client() for _ in range(3)]
    recoveries = [world.join(session, {"agent:a": position(world, 0)}) for session in sessions]
    running = [gevent.spawn(recovery.release) for recovery in recoveries]
    gevent.sleep(0)
    gevent.sleep(0)
    assert [0 < len(peer(session).frames) < 300 for session in sessions] == [True] * 3
    gevent.joinall(running)
    assert [thoughts(session) for session in sessions] == [numbers(300)] * 3


def test_clients_that_return_together_share_one_read_and_their_frames(world: World) -> None:
    world.client("agent:a")
    for number in range(50):
        world.thought(number)
    world.forget("agent:a")
    reads = world.broker.reads
    sessions = [world.client() for _ in range(40)]
    for number, session in enumerate(sessions):
        world.join(session, {"agent:a": position(world, number)}).release()
    assert world.broker.reads == reads + 1
    assert [len(thoughts(session)) for session in sessions] == list(range(50, 10, -1))
    assert len({id(peer(session).frames[-1]) for session in sessions}) == 1


def test_a_replay_that_is_overtaken_waits_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes live behind a client that does not read is bounded: then its outbox decides."""
    monkeypatch.setattr(module, "SLICE", 10)
    monkeypatch.setattr(module, "MOST_HELD", 5)
    for number in range(30):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": position(world, 0)})
    peer(session).waiting = module.CROWDED + 1
    replay = gevent.spawn(recovery.release)
    gevent.sleep(0.01)
    for number in range(30, 37):
        world.thought(number)
    eventually(lambda: replay.dead)
    assert thoughts(session) == numbers(37)


def test_a_pong_during_a_replay_proves_nothing_of_what_is_still_to_come(world: World,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 10)
    for number in range(30):
        world.thought(number)
    session = world.client()
    recovery = world.join(session, {"agent:a": position(world, 2)})
    peer(session).waiting = module.CROWDED + 1
    replay = gevent.spawn(recovery.release)
    gevent.sleep(0.01)
    session.pinging()
    session.ponged(0.0)
    assert session.positions()["agent:a"].seq == 2
    peer(session).waiting = 0
    eventually(lambda: replay.dead)
    session.pinging()
    session.ponged(0.0)
    assert session.positions()["agent:a"].seq == 30


# -- a new history


def test_a_recovery_that_knows_the_new_history_first_is_not_contradicted(world: World) -> None:
    """Told seq 3 of the new history, the client must not be told 0 of it when the worker notices."""
    witness = world.client("agent:a")
    for number in range(5):
        world.thought(number)
    old = position(world, 4)
    world.lost = lambda _room, _seq: True
    world.pass_time(2 * 86_400)  # the numbering of the room lapses
    for number in range(3):
        world.thought(f"new {number}")
    session = world.client()
    world.forget("agent:a")
    recovery = world.join(session, {"agent:a": old})
    assert (recovery.outcome()["reason"], recovery.positions["agent:a"].seq) == ("epoch", 3)
    world.lost = lambda _room, _seq: False
    recovery.pace(world.delivery.pace)
    recovery.release()
    world.thought("live")
    eventually(lambda: thoughts(witness)[-1] == "live")
    assert thoughts(witness) == [*numbers(5), "new 0", "new 1", "new 2", "live"]
    assert len(peer(witness).of("resync")) == 1
    assert peer(session).of("resync") == []
    assert thoughts(session) == ["live"]
    assert peer(session).of("agent-thought")[0]["seq"] == 4
    assert session.positions()["agent:a"] == Position(position(world, 0).epoch, 3)
