"""The ledger of a worker: whatever happens to an event, its fate is written down and the account adds up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.world import World, eventually, thoughts
from wsapp.core.catch_up import Pace
from wsapp.core.critical import RetryPolicy
from wsapp.core.events import Profile
from wsapp.core.ledger import Fate, Ledger
from wsapp.core.session import Session
from wsapp.runtime.critical import CriticalDelivery


class Accounted(World):
    """A worker that keeps the ledger."""

    def __init__(self, **options: object) -> None:
        self.ledger = Ledger()
        super().__init__(ledger=self.ledger, **options)  # type: ignore[arg-type]

    def make_critical(self, ledger: Ledger | None) -> CriticalDelivery:
        return CriticalDelivery(self.backend.critical, RetryPolicy(2.0, 60.0, 5, uniform=lambda low, _high: low),
                                self.connections, self.metrics, lambda _session, _room: True, ledger)

    def fate(self, session: Session, id: str) -> object:
        return self.ledger.explain(session.id, id)["fate"]

    def sound(self, session: Session) -> dict[str, int]:
        balance = self.ledger.balance(session.id)
        assert balance["published"] == sum(balance[fate.value] for fate in Fate)
        return balance


@pytest.fixture
def world() -> Iterator[Accounted]:
    world = Accounted()
    yield world
    world.close()


@pytest.fixture
def slow() -> Iterator[Accounted]:
    """Two frames a second, four may wait."""
    world = Accounted(rate=2, max_items=4)
    yield world
    world.close()


def test_delivered_at_once(world: Accounted) -> None:
    one, other = world.client("agent:a"), world.client("agent:b")
    receipt = world.thought("x")
    assert world.fate(one, receipt.id) == "delivered"
    assert world.fate(other, receipt.id) == "unknown"
    assert world.sound(one)["delivered"] == 1


@pytest.mark.parametrize("rooms", [("agent:a", "project:p"), ("project:p", "agent:a"), ("project:p",)])
def test_an_event_for_several_rooms_is_one_event(world: Accounted, rooms: tuple[str, ...]) -> None:
    session = world.client(*rooms)
    for number in range(3):
        world.thought(number, also_to=["project:p"])
    assert world.sound(session) | {"published": 3, "delivered": 3} == world.sound(session)


def test_waiting_merged_and_shed(slow: Accounted) -> None:
    session = slow.client("task:t", "agent:a")
    updates = [slow.task(number) for number in range(6)]
    assert [slow.fate(session, receipt.id) for receipt in updates[:3]] == ["delivered", "delivered", "waiting"]
    said = [slow.thought(number) for number in range(8)]
    slow.throttler.get_queue_depth()
    assert "shed" in {slow.fate(session, receipt.id) for receipt in said}
    slow.pass_time(60)
    slow.throttler.flush()
    slow.pass_time(60)
    slow.throttler.flush()
    balance = slow.sound(session)
    assert balance["waiting"] == 0
    assert balance["merged"] + balance["shed"] + balance["delivered"] == 14
    assert balance["shed"] == slow.metrics.shed


def test_the_merged_are_named(slow: Accounted) -> None:
    session = slow.client("task:t")
    updates = [slow.task(number) for number in range(6)]
    slow.pass_time(60)
    slow.throttler.flush()
    told = slow.ledger.explain(session.id, updates[3].id)
    assert (told["fate"], told["why"]) == ("merged", f"into {updates[5].id}")
    assert slow.sound(session)["delivered"] == 3


def test_a_connection_that_ends_and_comes_back(slow: Accounted) -> None:
    session = slow.client("agent:a")
    said = [slow.thought(number) for number in range(5)]
    slow.connections.handle_disconnection(session.sid)
    slow.ledger.left_by(session)
    assert slow.fate(session, said[-1].id) == "replayable"
    kept = slow.connections.handle_reconnection(session.id, "again")
    assert kept is not None
    again = slow.connections.handle_connection("again", type(session.peer)("again"), session_id=session.id)
    slow.join(again, dict(kept.positions)).release()
    assert slow.fate(again, said[-1].id) == "delivered"
    assert slow.sound(again)["delivered"] == 5


def test_healed_and_resynced(world: Accounted) -> None:
    session = world.client("agent:a")
    world.lost = lambda _room, seq: seq == 2
    said = [world.thought(number) for number in range(3)]
    eventually(lambda: len(thoughts(session)) == 3)
    assert {world.fate(session, receipt.id) for receipt in said} == {"delivered"}


def test_every_profile_is_accounted_for(slow: Accounted) -> None:
    sessions = [slow.client("agent:a", "task:t", user=profile.name, profile=profile) for profile in Profile]
    ids = [slow.thought(number).id for number in range(3)] + [slow.task(number).id for number in range(3)]
    slow.pass_time(60)
    slow.throttler.flush()
    slow.pass_time(60)
    slow.throttler.flush()
    for session in sessions:
        assert {slow.fate(session, id) for id in ids} <= {"delivered", "merged"}
        assert slow.sound(session)["published"] == 6
        sent = b"".join(frame.payload for frame in session.peer.frames)  # type: ignore[attr-defined]
        for id in ids:
            assert (id.encode() in sent) == (slow.fate(session, id) == "delivered")


def test_a_long_absence_adds_up(world: Accounted) -> None:
    world.delivery.pace = Pace(10, 4)
    said = [world.thought(number) for number in range(20)]
    alarm = world.thought("!", critical=True)
    said += [world.thought(number) for number in range(20, 30)]
    session = world.client()
    recovery = world.join(session, {"agent:a": alarm.positions["agent:a"]._replace(seq=0)})
    recovery.pace(world.delivery.pace)
    recovery.release()
    assert world.sound(session) | {"published": 31, "delivered": 5, "shed": 26} == world.sound(session)
    assert world.ledger.explain(session.id, said[3].id)["why"] == "catch-up"
    assert {world.fate(session, receipt.id) for receipt in (alarm, *said[-4:])} == {"delivered"}


def test_copies_of_a_critical_event_are_accounted_for(world: Accounted) -> None:
    critical = world.fanout.critical
    assert critical is not None
    world.run(world.fanout.run, critical.keep_forever)
    first = world.client("agent:a", user="ann")
    id = world.thought("!", critical=True).id
    eventually(lambda: thoughts(first) == ["!"])
    assert world.ledger.explain(first.id, id)["why"] == ""
    second = world.client(user="ann")  # in no room: only the copies reach it
    for _ in range(2):
        world.pass_time(30)
        critical.sweep()
    assert len(thoughts(first)) == 3
    assert len(thoughts(second)) == 2
    for session, why in ((first, "sent again 2 times"), (second, "sent again 2 times")):
        assert world.sound(session)["delivered"] == 1
        assert str(world.ledger.explain(session.id, id)["why"]).startswith(why)


def test_what_waited_of_a_lost_history_is_told(slow: Accounted) -> None:
    session = slow.client("agent:a")
    said = [slow.thought(number) for number in range(5)]
    slow.pass_time(2 * 86_400)
    slow.thought("anew")
    eventually(lambda: slow.fate(session, said[-1].id) == "told")
    slow.pass_time(60)
    slow.throttler.flush()
    assert [slow.fate(session, receipt.id) for receipt in said] == ["delivered"] * 2 + ["told"] * 3
    assert slow.sound(session)["waiting"] == 0
