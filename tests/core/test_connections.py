"""ConnectionManager: the books of a worker, and what a reconnect finds wherever it lands."""

from __future__ import annotations

import pytest

from wsapp.backends.memory import MemorySessions
from wsapp.core.connections import ConnectionManager
from wsapp.core.events import Position, Profile
from wsapp.core.ports import Limits, SavedSession
from wsapp.core.registry import Registry
from wsapp.core.session import MAX_METADATA
from wsapp.core.throttle import EventThrottler
from wsapp.errors import BrokerUnavailable, CloseCode, RequestError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A peer that remembers how it was closed."""

    direct = None

    def __init__(self, sid: str) -> None:
        self.sid = sid
        self.closed: list[int] = []

    def push(self, frame: object) -> None:
        raise AssertionError("the books send nothing")

    def backlog(self) -> int:
        return 0

    def close(self, code: int, reason: str) -> None:
        assert reason
        self.closed.append(code)


class Cluster:
    """Two workers on one store."""

    def __init__(self) -> None:
        self.clock, self.told = Clock(), list[tuple[str, bytes]]()
        self.store = MemorySessions(Limits(), self.clock, lambda boot, message: self.told.append((boot, message)))
        self.one, self.two = self.worker("w1"), self.worker("w2")

    def worker(self, boot: str) -> ConnectionManager:
        return ConnectionManager(self.store, boot=boot, clock=self.clock)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def manager(cluster: Cluster) -> ConnectionManager:
    return cluster.one


def watch(manager: ConnectionManager, sid: str, room: str = "task:1", seq: int = 0) -> None:
    """Join and have everything up to `seq` confirmed."""
    sub = manager.join_room(sid, room)
    sub.room.track.reset(Position("e1", seq))
    sub.started(seq)
    sub.go_live(seq)


def test_a_connection_and_its_snapshot(manager: ConnectionManager) -> None:
    session = manager.handle_connection("s1", Screen("s1"), "ada", profile=Profile.SDK, metadata={"page": "home"})
    manager.join_room("s1", "task:1")
    session.received, session.sent = 2, 3
    seen = manager.get_connection("s1")
    assert seen is not None
    assert (seen.sid, seen.user_id, seen.session_id, seen.rooms) == ("s1", "ada", session.id, ("task:1",))
    assert (seen.connected_at, seen.last_activity, seen.metadata) == (1000.0, 1000.0, {"page": "home"})
    assert (seen.messages_received, seen.messages_sent) == (2, 3)
    assert manager.session("s1") is session
    assert manager.sessions() == [session]
    assert session.owner == "w1:s1"


def test_unknown_ones(manager: ConnectionManager) -> None:
    assert manager.get_connection("x") is None
    assert manager.session("x") is None
    assert manager.handle_disconnection("x") is None
    assert not manager.is_connection_active("x")
    assert manager.get_user_connections("x") == manager.get_room_connections("x") == []
    manager.touch("x")
    for call in (manager.join_room, manager.leave_room):
        with pytest.raises(KeyError):
            call("x", "task:1")
    with pytest.raises(KeyError):
        manager.update_metadata("x", {})


def test_anonymous_users_are_told_apart_and_show_nothing_of_the_secret(manager: ConnectionManager) -> None:
    one = manager.handle_connection("s1", Screen("s1"))
    two = manager.handle_connection("s2", Screen("s2"))
    assert one.id != two.id
    assert len(one.id) >= 20
    assert one.user_id.startswith("anon:")
    assert one.user_id != two.user_id
    assert not any(one.id[start:start + 4] in one.user_id for start in range(len(one.id) - 3))


def test_a_sid_connects_once(manager: ConnectionManager) -> None:
    manager.handle_connection("s1", Screen("s1"), "ada")
    with pytest.raises(ValueError, match="already"):
        manager.handle_connection("s1", Screen("s1"), "bob")
    assert manager.get_connection_count() == 1


def test_counts(manager: ConnectionManager) -> None:
    for sid, user in (("s1", "ada"), ("s2", "ada"), ("s3", "bob")):
        manager.handle_connection(sid, Screen(sid), user)
    assert (manager.get_connection_count(), manager.get_user_count(), manager.total, manager.peak) == (3, 2, 3, 3)
    manager.handle_disconnection("s3")
    assert (manager.get_connection_count(), manager.get_user_count()) == (2, 1)
    manager.handle_disconnection("s1")
    assert (manager.get_connection_count(), manager.get_user_count()) == (1, 1)
    manager.handle_connection("s4", Screen("s4"), "ada")
    assert (manager.total, manager.peak) == (4, 3)


def test_tabs_of_one_user_are_separate(cluster: Cluster) -> None:
    manager = cluster.one
    tabs = [manager.handle_connection(sid, Screen(sid), "ada") for sid in ("s1", "s2")]
    watch(manager, "s1", "task:1", 4)
    watch(manager, "s2", "agent:1", 9)
    assert {seen.sid: seen.rooms for seen in manager.get_user_connections("ada")} == {
        "s1": ("task:1",), "s2": ("agent:1",)}
    for sid in ("s1", "s2"):
        manager.handle_disconnection(sid)
    found = [cluster.two.handle_reconnection(tab.id, f"new{tab.sid}") for tab in tabs]
    assert [saved and saved.positions for saved in found] == [
        {"task:1": Position("e1", 4)}, {"agent:1": Position("e1", 9)}]


def test_rooms(manager: ConnectionManager) -> None:
    for sid in ("s1", "s2"):
        manager.handle_connection(sid, Screen(sid), "ada")
        manager.join_room(sid, "task:1")
    assert {seen.sid for seen in manager.get_room_connections("task:1")} == {"s1", "s2"}
    assert manager.leave_room("s1", "task:1")
    assert not manager.leave_room("s1", "task:1")
    assert [seen.sid for seen in manager.get_room_connections("task:1")] == ["s2"]
    manager.handle_disconnection("s2")
    assert manager.get_room_connections("task:1") == []


def test_metadata_has_a_limit_for_the_sum(manager: ConnectionManager) -> None:
    """8 kB at a time, without end, made a worker 2.9 GB."""
    session = manager.handle_connection("s1", Screen("s1"), "ada")
    manager.update_metadata("s1", {"a": "x" * 8000})
    kept = manager.update_metadata("s1", {"b": "x" * 8000})
    with pytest.raises(RequestError, match="remove keys with null") as caught:
        manager.update_metadata("s1", {"c": "x" * 8000})
    assert caught.value.code == "limit"
    assert session.metadata == kept == {"a": "x" * 8000, "b": "x" * 8000}
    assert 16_000 < session.metadata_size <= MAX_METADATA
    manager.update_metadata("s1", {"a": None, "c": "x" * 8000})
    assert set(session.metadata) == {"b", "c"}


def test_metadata_is_merged_and_none_removes(manager: ConnectionManager) -> None:
    given = {"page": "home", "size": 1}
    session = manager.handle_connection("s1", Screen("s1"), "ada", metadata=given)
    assert manager.update_metadata("s1", {"size": 2, "dark": False}) == {"page": "home", "size": 2, "dark": False}
    assert manager.update_metadata("s1", {"page": None, "never": None}) == {"size": 2, "dark": False}
    assert given == {"page": "home", "size": 1}
    assert session.dirty
    seen = manager.get_connection("s1")
    assert seen is not None
    assert seen.metadata == {"size": 2, "dark": False}


def test_a_snapshot_does_not_change_later(manager: ConnectionManager) -> None:
    manager.handle_connection("s1", Screen("s1"), "ada")
    before = manager.get_connection("s1")
    manager.join_room("s1", "task:1")
    manager.update_metadata("s1", {"a": 1})
    assert before is not None
    assert (before.rooms, before.metadata) == ((), {})


# -- reconnecting


def test_a_session_is_resumed_on_another_worker(cluster: Cluster) -> None:
    session = cluster.one.handle_connection("s1", Screen("s1"), "ada", metadata={"page": "home"})
    watch(cluster.one, "s1", "task:1", 7)
    assert cluster.one.handle_disconnection("s1") is session
    saved = cluster.two.handle_reconnection(session.id, "s2")
    assert saved == SavedSession(session.id, "ada", "w1:s1", {"task:1": Position("e1", 7)}, {"page": "home"})


def test_only_what_was_confirmed_is_saved(cluster: Cluster) -> None:
    session = cluster.one.handle_connection("s1", Screen("s1"), "ada")
    watch(cluster.one, "s1", "task:1", 7)
    session.subs["task:1"].sent = 12
    cluster.one.handle_disconnection("s1")
    saved = cluster.two.handle_reconnection(session.id, "s2")
    assert saved is not None
    assert saved.positions == {"task:1": Position("e1", 7)}


def test_a_late_disconnect_of_the_old_connection_changes_nothing(cluster: Cluster) -> None:
    old = cluster.one.handle_connection("s1", Screen("s1"), "ada")
    watch(cluster.one, "s1", "task:1", 7)
    cluster.store.save([cluster.one.saved(old)])
    assert cluster.two.handle_reconnection(old.id, "s2") is not None
    assert cluster.told == [("w1", b"fenced s1")]
    cluster.two.handle_connection("s2", Screen("s2"), "ada", session_id=old.id)
    watch(cluster.two, "s2", "task:1", 20)
    cluster.two.handle_disconnection("s2")
    cluster.one.handle_disconnection("s1")  # late
    saved = cluster.one.handle_reconnection(old.id, "s3")
    assert saved is not None
    assert saved.positions == {"task:1": Position("e1", 20)}


def test_a_reconnect_on_the_same_worker_closes_the_connection_that_holds_the_session(cluster: Cluster) -> None:
    manager, peer = cluster.one, Screen("s1")
    session = manager.handle_connection("s1", peer, "ada")
    watch(manager, "s1", "task:1", 3)
    cluster.store.save([manager.saved(session)])
    assert manager.handle_reconnection(session.id, "s2") is not None
    assert peer.closed == [CloseCode.REPLACED]
    assert cluster.told == []
    newer = manager.handle_connection("s2", Screen("s2"), "ada", session_id=session.id)
    manager.handle_disconnection("s1")
    assert manager.session("s2") is newer
    newer_peer = newer.peer
    assert isinstance(newer_peer, Screen)
    manager.handle_reconnection(session.id, "s3")
    assert newer_peer.closed == [CloseCode.REPLACED]  # the late disconnect did not take the newer one off the books


def test_a_state_that_lapsed_or_never_was(cluster: Cluster) -> None:
    assert cluster.one.handle_reconnection("never", "s9") is None
    session = cluster.one.handle_connection("s1", Screen("s1"), "ada")
    watch(cluster.one, "s1")
    cluster.one.handle_disconnection("s1")
    cluster.clock.now += 600
    assert cluster.two.handle_reconnection(session.id, "s2") is None


def test_a_session_without_rooms_leaves_nothing_behind(cluster: Cluster) -> None:
    session = cluster.one.handle_connection("s1", Screen("s1"), "ada")
    cluster.one.handle_disconnection("s1")
    assert cluster.two.handle_reconnection(session.id, "s2") is None


def test_a_new_name_for_a_state_that_could_not_be_resumed(cluster: Cluster) -> None:
    manager = cluster.one
    session = manager.handle_connection("s1", Screen("s1"), "ada", session_id="old")
    manager.rename(session)
    assert session.id != "old"
    assert manager.handle_reconnection("old", "s2") is None
    assert isinstance(session.peer, Screen)
    assert session.peer.closed == []
    manager.handle_reconnection(session.id, "s2")
    assert session.peer.closed == [CloseCode.REPLACED]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_connections_of_one_session_are_both_given_new_names(cluster: Cluster, order: tuple[int, int]) -> None:
    """A duplicated tab, while Redis is away: neither state can be resumed."""
    manager = cluster.one
    both = [manager.handle_connection(sid, Screen(sid), "ada", session_id="old") for sid in ("s1", "s2")]
    for number in order:
        manager.rename(both[number])
    assert len({"old", *(session.id for session in both)}) == 3
    for session in both:
        manager.handle_reconnection(session.id, "s3")
        assert isinstance(session.peer, Screen)
        assert session.peer.closed == [CloseCode.REPLACED]


class AwayStore(MemorySessions):
    """The store when Redis is not reached."""

    def save(self, sessions: object) -> list[bool]:
        raise BrokerUnavailable("no answer in time")


def test_the_books_are_straight_though_the_store_is_away() -> None:
    manager = ConnectionManager(AwayStore(Limits(), Clock(), lambda boot, message: None), clock=Clock())
    manager.handle_connection("s1", Screen("s1"), "ada")
    watch(manager, "s1")
    with pytest.raises(BrokerUnavailable):
        manager.handle_disconnection("s1")
    assert (manager.get_connection_count(), manager.get_user_count()) == (0, 0)
    assert manager.get_room_connections("task:1") == []
    assert [saved.positions.keys() for saved in manager.unsaved.values()] == [{"task:1"}]


def test_forgetting_saves_nothing(cluster: Cluster) -> None:
    session = cluster.one.handle_connection("s1", Screen("s1"), "ada")
    watch(cluster.one, "s1")
    assert cluster.one.forget("s1") is session
    assert cluster.one.forget("s1") is None
    assert cluster.two.handle_reconnection(session.id, "s2") is None
    assert session.subs  # left to the caller


# -- activity


def test_active_means_heard_within_five_minutes_and_a_pong_is_heard(cluster: Cluster) -> None:
    manager = cluster.one
    session = manager.handle_connection("s1", Screen("s1"), "ada")
    cluster.clock.now += 299
    assert manager.is_connection_active("s1")
    cluster.clock.now += 1
    assert not manager.is_connection_active("s1")
    session.ponged(cluster.clock.now)
    assert manager.is_connection_active("s1")
    cluster.clock.now += 300
    assert not manager.is_connection_active("s1")
    manager.touch("s1")
    assert manager.is_connection_active("s1")


def test_stale_means_nothing_heard_for_ten_minutes(cluster: Cluster) -> None:
    manager, peers = cluster.one, {sid: Screen(sid) for sid in ("silent", "ponging", "talking")}
    for sid, peer in peers.items():
        manager.handle_connection(sid, peer, "ada")
    cluster.clock.now += 590
    ponging = manager.session("ponging")
    assert ponging is not None
    ponging.ponged(cluster.clock.now)
    manager.touch("talking")
    assert manager.cleanup_stale_connections() == []
    cluster.clock.now += 20
    assert manager.cleanup_stale_connections() == ["silent"]
    assert {sid: peer.closed for sid, peer in peers.items()} == {
        "silent": [CloseCode.STALE], "ponging": [], "talking": []}


def test_a_peer_that_leaves_while_being_closed(cluster: Cluster) -> None:
    manager = cluster.one

    class Leaving(Screen):
        def close(self, code: int, reason: str) -> None:
            manager.handle_disconnection(self.sid)

    for sid in ("s1", "s2"):
        manager.handle_connection(sid, Leaving(sid), "ada")
    cluster.clock.now += 601
    assert manager.cleanup_stale_connections() == ["s1", "s2"]
    assert manager.get_connection_count() == 0


def test_given_parts_are_used() -> None:
    registry, throttler = Registry(), EventThrottler(clock=Clock())
    manager = ConnectionManager(MemorySessions(Limits(), Clock(), lambda boot, message: None), registry, throttler)
    manager.handle_connection("s1", Screen("s1"), "ada", profile=Profile.SDK)
    manager.join_room("s1", "task:1")
    assert manager.registry is registry
    assert list(registry.rooms) == ["task:1"]
    assert throttler.user("ada").receivers["s1"].merges
    manager.handle_disconnection("s1")
    assert throttler.user("ada").receivers == {}


def test_users_and_their_sessions() -> None:
    manager = ConnectionManager(MemorySessions(Limits(), Clock(), lambda _boot, _message: None), Registry(),
                                EventThrottler())
    first = manager.handle_connection("s1", Screen("s1"), "ada")
    second = manager.handle_connection("s2", Screen("s2"), "ada")
    manager.handle_connection("s3", Screen("s3"), "bob")
    assert manager.users() == ["ada", "bob"]
    assert manager.user_sessions("ada") == [first, second]
    manager.forget("s3")
    assert (manager.users(), manager.user_sessions("bob")) == (["ada"], [])
