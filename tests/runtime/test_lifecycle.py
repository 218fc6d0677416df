"""Sessions come, are kept and go; only the newest connection of one speaks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gevent
import pytest

from tests.runtime.world import NUMBERS, RecordingPeer, World, eventually, numbers, peer, thoughts
from wsapp.core.catch_up import Pace
from wsapp.core.events import Draft, Position, Profile
from wsapp.core.ports import HistoryQuery, Receipt
from wsapp.core.session import Session
from wsapp.errors import BrokerUnavailable, CloseCode, PayloadError
from wsapp.runtime.lifecycle import Lifecycle, Welcome, _chunks, read_hello
from wsapp.runtime.link import Link
from wsapp.runtime.outlet import Outlet


def welcome(world: World, auth: dict[str, Any] | None = None, user: str | None = None) -> Welcome:
    sid = f"w{next(NUMBERS)}"
    return world.lifecycle.welcome(sid, RecordingPeer(sid), auth, user)  # type: ignore[arg-type]


def enter(world: World, auth: dict[str, Any] | None = None, user: str | None = None) -> Session:
    """A client that is welcomed and goes live."""
    admitted = welcome(world, auth, user)
    if admitted.recovery is not None:
        admitted.recovery.release()
    return admitted.session


def watch(world: World, session: Session, *rooms: str) -> None:
    world.join(session, dict.fromkeys(rooms)).release()
    world.connections.store.save([world.connections.saved(session)])


@pytest.mark.parametrize(("auth", "profile"), [
    (None, Profile.PLAIN), ({}, Profile.PLAIN), ({"wsapp": 1}, Profile.SDK), ({"wsapp": "1"}, Profile.PLAIN),
    ({"recovery": "offset"}, Profile.PLAIN), ({"wsapp": 1, "recovery": "offset"}, Profile.SDK)])
def test_the_profile_is_chosen_at_connect(auth: dict[str, Any] | None, profile: Profile) -> None:
    assert read_hello(auth).profile is profile


@pytest.mark.parametrize("id", [7, None, "short", "x" * 65, "with blanks in it!", ["a" * 20]])
def test_a_malformed_session_id_is_an_unknown_one(id: object) -> None:
    assert read_hello({"sessionId": id}).session_id is None


def test_the_hello_reads_pid_and_positions() -> None:
    hello = read_hello({"pid": "p" * 20, "offset": "0f", "token": "theirs",
                        "positions": {"agent:a": {"epoch": "e", "seq": 4}}})
    assert hello.session_id == "p" * 20
    assert hello.positions == {"agent:a": Position("e", 4)}
    assert read_hello({"positions": [1], "offset": 5}).positions == {}  # of no session: nothing of ours


@pytest.mark.parametrize("wrong", [
    [1], {"agent:a": 7}, {"agent:a": {"seq": 4}}, {"agent:a": {"epoch": "e", "seq": True}},
    {"a": {"epoch": "e", "seq": 1}},
    {"agent:a": {"epoch": "e", "seq": 2**64}}, {"agent:a": {"epoch": "e", "seq": -1}},
    {"agent:a": {"epoch": "e", "seq": 1, "more": 2}}])
def test_positions_that_are_none_are_refused(wrong: object) -> None:
    with pytest.raises(PayloadError):
        read_hello({"sessionId": "p" * 20, "positions": wrong})


def test_a_new_client_gets_a_secret_session(world: World) -> None:
    first, second = welcome(world), welcome(world)
    assert first.told == {"sessionId": first.session.id, "recovered": False, "missed": 0}
    assert len(first.session.id) >= 20
    assert first.session.id != second.session.id
    assert first.session.user_id.startswith("anon:")


def test_a_session_is_resumed_with_what_it_missed(world: World) -> None:
    old = enter(world, user="u")
    watch(world, old, "agent:a", "task:t")
    world.connections.update_metadata(old.sid, {"tab": 1})
    world.thought(0)
    world.lifecycle.goodbye(old.sid)
    for number in range(1, 4):
        world.thought(number)
    back = welcome(world, {"pid": old.id}, "u")
    assert (back.told["recovered"], back.told["missed"], back.session.id) == (True, 4, old.id)
    assert back.told["rooms"]["agent:a"]["seq"] == 4  # type: ignore[index]
    assert peer(back.session).frames == []
    assert back.recovery is not None
    back.recovery.release()
    world.thought(4)
    assert thoughts(back.session) == numbers(5)  # 0 was never confirmed
    assert back.session.metadata == {"tab": 1}
    assert set(back.session.subs) == {"agent:a", "task:t"}
    assert world.metrics.resumed == 1


def test_positions_of_the_client_count_more_than_the_confirmed_ones(world: World) -> None:
    old = enter(world)
    watch(world, old, "agent:a")
    receipts = [world.thought(number) for number in range(4)]
    world.lifecycle.goodbye(old.sid)
    place = receipts[2].places[0]
    session = enter(world, {"pid": old.id, "positions": {"agent:a": {"epoch": place.epoch, "seq": 3},
                                                         "agent:secret": {"epoch": place.epoch, "seq": 0}}})
    assert thoughts(session) == ["3"]
    assert set(session.subs) == {"agent:a"}


def test_a_late_disconnect_of_the_old_connection_changes_nothing(world: World) -> None:
    old = enter(world)
    watch(world, old, "agent:a")
    world.thought(0)
    new = enter(world, {"pid": old.id})
    assert peer(old).closed == [(CloseCode.REPLACED, peer(old).closed[0][1])]
    world.join(new, {"agent:b": None}).release()
    world.connections.store.save([world.connections.saved(new)])
    world.lifecycle.goodbye(old.sid)  # only now
    assert world.connections.session(new.sid) is new
    world.lifecycle.goodbye(new.sid)
    world.thought(1)
    back = enter(world, {"pid": new.id})
    assert set(back.subs) == {"agent:a", "agent:b"}
    assert thoughts(back)[-1] == "1"


def test_a_session_is_fenced_across_workers(world: World) -> None:
    old = enter(world)
    watch(world, old, "agent:a")
    other = World(backend=world.backend, boot="w2")
    new = enter(other, {"pid": old.id})
    old.dirty = True
    world.lifecycle.save_dirty()
    assert peer(old).closed[0][0] == CloseCode.REPLACED
    world.lifecycle.goodbye(old.sid)
    other.join(new, {"agent:b": None}).release()
    new.dirty = True
    other.lifecycle.save_dirty()
    assert peer(new).closed == []
    other.lifecycle.goodbye(new.sid)
    assert set(enter(other, {"pid": old.id}).subs) == {"agent:a", "agent:b"}


def test_being_fenced_closes_the_connection(world: World) -> None:
    session = enter(world)
    world.lifecycle.fenced(session.sid)
    world.lifecycle.fenced("nobody")
    assert peer(session).closed[0][0] == CloseCode.REPLACED


@pytest.mark.parametrize("user", ["mallory", None])
def test_another_users_session_is_refused(world: World, user: str | None) -> None:
    old = enter(world, user="alice")
    watch(world, old, "agent:a")
    world.lifecycle.goodbye(old.sid)
    stolen = welcome(world, {"pid": old.id}, user)
    assert (stolen.told["recovered"], stolen.told["reason"], stolen.recovery) == (False, "other_user", None)
    assert stolen.session.id != old.id
    assert stolen.session.subs == {}
    world.lifecycle.goodbye(stolen.session.sid)
    assert set(enter(world, {"pid": old.id}, "alice").subs) == {"agent:a"}


def test_an_anonymous_session_may_be_taken_along_when_signing_in(world: World) -> None:
    old = enter(world)
    watch(world, old, "agent:a")
    world.lifecycle.goodbye(old.sid)
    session = enter(world, {"pid": old.id}, "alice")
    assert (session.user_id, set(session.subs)) == ("alice", {"agent:a"})


def test_an_unknown_session_is_told_as_expired(world: World) -> None:
    told = welcome(world, {"pid": "u" * 24}).told
    assert (told["recovered"], told["reason"]) == (False, "expired")
    assert told["sessionId"] != "u" * 24


def test_what_cannot_be_recovered_gets_a_new_name_and_goes_on(world: World) -> None:
    old = enter(world)
    watch(world, old, "agent:a")
    for number in range(3):
        world.thought(number)
    world.lifecycle.goodbye(old.sid)
    back = welcome(world, {"pid": old.id, "positions": {"agent:a": {"epoch": "another", "seq": 1}}})
    assert (back.told["recovered"], back.told["reason"], back.told["missed"]) == (False, "epoch", 3)
    assert back.told["sessionId"] == back.session.id != old.id
    assert back.recovery is not None
    back.recovery.release()
    world.thought(3)
    assert thoughts(back.session) == ["3"]
    assert world.metrics.recovery_refused == 1


def away() -> None:
    raise BrokerUnavailable("away")


def left_behind(world: World) -> Session:
    """A session that has gone, and whose room nobody follows any more; it has missed one event."""
    old = enter(world)
    watch(world, old, "agent:a")
    world.lifecycle.goodbye(old.sid)
    world.delivery.close_vacant()
    world.thought(0)
    return old


def test_a_broker_that_stays_away_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapp.runtime.link.OUTAGE_WAIT_S", 0.3)
    old = left_behind(world)
    world.broker.before += [away] * 100
    back = welcome(world, {"pid": old.id})
    assert (back.told["recovered"], back.told["reason"]) == (False, "unavailable")
    assert back.session.id != old.id
    assert back.session.subs == {}
    before = world.broker.reads
    assert welcome(world, {"pid": back.session.id}).told["reason"] == "expired"
    assert welcome(world, {"pid": old.id}).told["reason"] == "unavailable"
    assert world.broker.reads == before + 1, "the outage has lasted: nobody waits for its end any more"


def test_a_broker_that_comes_back_in_a_moment_costs_nothing(world: World) -> None:
    old = left_behind(world)
    world.broker.before += [away] * 3
    back = gevent.spawn(welcome, world, {"pid": old.id})
    assert welcome(world).told["recovered"] is False, "who has nothing to resume does not wait"
    assert not back.ready()
    told = back.get(timeout=5).told
    assert (told["recovered"], told["missed"], told["sessionId"]) == (True, 1, old.id)


def test_a_client_that_goes_while_it_waits_leaves_its_session_as_it_was(world: World) -> None:
    old = left_behind(world)
    world.broker.before += [away] * 100
    gone = RecordingPeer("gone")
    waiting = gevent.spawn(world.lifecycle.welcome, "gone", gone, {"pid": old.id}, None)
    eventually(lambda: world.connections.session("gone"))
    gone.close(1006, "")
    world.lifecycle.goodbye("gone")
    with pytest.raises(BrokerUnavailable):
        waiting.get(timeout=5)
    world.broker.before.clear()
    assert welcome(world, {"pid": old.id}).told["missed"] == 1


class Counting:
    """The real store, counted, slowed and cut."""

    def __init__(self, world: World) -> None:
        self.inner, self.saves = world.connections.store, []
        self.pause, self.away = 0.0, False
        world.connections.store = self  # type: ignore[assignment]

    def save(self, sessions: Any) -> list[bool]:
        gevent.sleep(self.pause)
        if self.away:
            raise BrokerUnavailable("away")
        self.saves.append([session.session_id for session in sessions])
        return self.inner.save(sessions)


def test_sessions_that_change_together_share_a_round_trip(world: World) -> None:
    sessions = [enter(world) for _ in range(50)]
    store = Counting(world)
    world.run(world.lifecycle.save_forever)
    gevent.sleep(0)
    gevent.joinall([gevent.spawn(world.lifecycle.save, session) for session in sessions], raise_error=True)
    assert sorted(store.saves[0]) == sorted(session.id for session in sessions)
    assert len(store.saves) == 1


def test_save_returns_when_it_is_saved_however_slow(world: World) -> None:
    session, store = enter(world), Counting(world)
    store.pause = 0.15
    world.run(world.lifecycle.save_forever)
    gevent.sleep(0)
    world.lifecycle.save(session)
    assert store.saves == [[session.id]]


def test_a_change_during_the_round_trip_is_saved_by_the_next(world: World) -> None:
    session, store = enter(world), Counting(world)
    store.pause = 0.02
    world.run(world.lifecycle.save_forever)
    gevent.sleep(0)
    first = gevent.spawn(world.lifecycle.save, session)
    gevent.sleep(0.005)
    world.join(session, {"agent:a": None}).release()
    world.lifecycle.save(session)
    first.get()
    assert len(store.saves) == 2
    taken = store.inner.take(session.id, "w1:later")
    assert taken is not None
    assert set(taken.positions) == {"agent:a"}


def test_save_raises_when_it_is_not_saved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    session, store = enter(world), Counting(world)
    store.away = True
    world.run(world.lifecycle.save_forever)
    gevent.sleep(0)
    with pytest.raises(BrokerUnavailable):
        world.lifecycle.save(session)
    assert session.dirty
    store.away = False
    world.lifecycle.save_dirty()
    assert store.saves == [[session.id]]


def test_goodbye_survives_a_broker_that_is_away(world: World) -> None:
    session, store = enter(world), Counting(world)
    watch_rooms = world.join(session, {"agent:a": None})
    watch_rooms.release()
    store.away = True
    assert world.lifecycle.goodbye(session.sid) is session
    assert world.connections.get_connection_count() == 0
    assert world.lifecycle.goodbye(session.sid) is None


def test_a_drain_tells_saves_and_closes_each_with_1012(world: World) -> None:
    sessions = [enter(world) for _ in range(20)]
    for session in sessions:
        world.join(session, {"agent:a": None}).release()
        close = peer(session).close
        session.peer.close = lambda code, reason, session=session, close=close: (  # type: ignore[method-assign]
            close(code, reason), world.lifecycle.goodbye(session.sid))
        session.dirty = True
    world.lifecycle.drain(2.0)
    assert world.connections.get_connection_count() == 0
    waits = sorted(peer(session).of("server-shutdown")[0]["retryAfterMs"] for session in sessions)
    assert waits[0] == 0
    assert len(set(waits)) == 20
    assert waits[-1] <= 1000
    assert {peer(session).closed[0][0] for session in sessions} == {CloseCode.SERVICE_RESTART}
    assert set(enter(world, {"pid": sessions[0].id}).subs) == {"agent:a"}


def test_a_drain_ends_in_time_although_a_client_stays(world: World) -> None:
    session = enter(world)
    with gevent.Timeout(5):
        world.lifecycle.drain(0.05)
    assert peer(session).closed[0][0] == CloseCode.SERVICE_RESTART


def test_the_saver_follows_what_becomes_confirmed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapp.runtime.lifecycle.SAVE_INTERVAL", 0.005)
    session = world.client("agent:a")
    world.thought(0)
    store = Counting(world)
    world.run(world.lifecycle.save_forever)
    session.pinging()
    session.ponged(0.0)
    eventually(lambda: store.saves)
    taken = store.inner.take(session.id, "w1:later")
    assert taken is not None
    assert taken.positions["agent:a"].seq == 1


# -- one event, one id


def answer_lost(world: World, *watchers: Session) -> str:
    """Redis takes a publish and its answer is lost: the worker serves it unrecorded and publishes it again."""
    outlet = Outlet(world.broker.publish, world.backend, Link(lambda _state: None), world.metrics,
                    world.fanout.serve_unrecorded)
    world.lost = lambda _room, _seq: True

    def deaf(drafts: Sequence[Draft]) -> list[Receipt]:
        world.broker.publish(drafts)
        raise BrokerUnavailable("no answer")

    outlet._send = deaf
    [receipt] = outlet.publish([Draft("agent-thought", ("agent:a",), b'{"thought":"x"}', 1, flags="is")])
    world.lost = lambda _room, _seq: False
    outlet._send = world.broker.publish
    outlet._step()
    world.delivery.on_gap()
    eventually(lambda: world.registry.rooms["agent:a"].track.seq > 0 and world.registry.rooms["agent:a"].join is None)
    [recorded] = world.broker.read([HistoryQuery("agent:a")])[0].publications
    assert receipt.id == recorded.id
    assert [one["id"] for session in watchers for one in peer(session).of("agent-thought")] == [receipt.id] * len(
        watchers)
    return receipt.id


@pytest.mark.parametrize("auth", [{}, {"wsapp": 1}])
def test_an_event_is_replayed_under_the_id_that_its_client_saw(world: World, auth: dict[str, Any]) -> None:
    session = enter(world, auth)
    watch(world, session, "agent:a")
    id = answer_lost(world, session)
    world.lifecycle.goodbye(session.sid)
    other = World(backend=world.backend, boot="w2")  # to another worker, which never heard of it
    back = enter(other, {**auth, "sessionId": session.id})
    assert [one["id"] for one in peer(back).of("agent-thought")] == [id]
    if auth:
        assert [event[2]["id"] for event in peer(back).events if event[0] == "agent-thought"] == [id]
    stranger = other.client()
    other.join(stranger, {"agent:a": back.positions()["agent:a"]._replace(seq=0)}).release()
    assert [one["id"] for one in peer(stranger).of("agent-thought")] == [id]


def test_the_presence_that_was_asked_for_is_remembered_while_the_room_is(world: World) -> None:
    session = enter(world)
    watch(world, session, "agent:a", "agent:b")
    session.watching = frozenset(("agent:a", "agent:c"))
    world.lifecycle.goodbye(session.sid)
    back = welcome(world, {"sessionId": session.id})
    assert back.watching == {"agent:a"}


def test_a_long_absence_is_told_with_what_is_skipped(world: World) -> None:
    world.delivery.pace = Pace(3, 1)
    session = enter(world)
    watch(world, session, "agent:a")
    world.lifecycle.goodbye(session.sid)
    for number in range(5):
        world.thought(number)
    back = welcome(world, {"sessionId": session.id})
    assert (back.told["recovered"], back.told["missed"], back.told["skipped"]) == (True, 5, 4)


def test_a_session_that_ends_while_redis_is_away_is_saved_when_it_is_back(world: World,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    session, taken = enter(world), enter(world)
    for one in (session, taken):
        watch(world, one, "agent:a")
    world.thought("x")

    def away(_sessions: object) -> list[bool]:
        raise BrokerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.backend.sessions, "save", away)
        for one in (session, taken):
            one.pinging()
            one.ponged(0.0)
            world.lifecycle.goodbye(one.sid)
        world.lifecycle.save_dirty()
    assert len(world.connections.unsaved) == 2
    elsewhere = welcome(World(backend=world.backend, boot="w2"), {"sessionId": taken.id})
    world.lifecycle.save_dirty()
    assert not world.connections.unsaved
    back = welcome(world, {"sessionId": session.id})
    assert (back.told["recovered"], back.told["missed"]) == (True, 0)
    assert world.connections.store.save([world.connections.saved(elsewhere.session)]) == [True], "fenced"


def test_when_redis_is_back_what_changed_is_saved_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapp.runtime.lifecycle.SAVE_INTERVAL", 60.0)
    session = enter(world)
    watch(world, session, "agent:a")
    world.run(world.lifecycle.save_forever)
    gevent.sleep(0)
    session.dirty = True
    world.lifecycle.save_soon()
    eventually(lambda: not session.dirty)


def test_what_is_saved_together_is_bounded_in_bytes(world: World) -> None:
    """A session that is large must not make the others miss the time limit of the round trip."""
    sessions = [enter(world) for _ in range(4)]
    for number, session in enumerate(sessions):
        session.metadata_size = 400_000 if number else 2_000_000
    assert [len(chunk) for chunk in _chunks(sessions)] == [1, 2, 1]
    assert list(_chunks([])) == []
    watch(world, sessions[0], "agent:" + "x" * 100)
    assert Lifecycle.weight(sessions[0]) > 2_000_100
