"""Critical events on one worker: kept before they are sent, sent again, answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import gevent
import pytest

from tests.runtime.world import World, eventually, peer, thoughts
from wsapp.core.critical import RetryPolicy
from wsapp.core.events import Lane, Placed, Position, Profile, Publication
from wsapp.core.ledger import Ledger
from wsapp.core.ports import CriticalStore, Due, Fate, Kept
from wsapp.core.session import Session
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.critical import CriticalDelivery


def middle(low: float, high: float) -> float:
    return (low + high) / 2


class Slow:
    """The real store behind a door: shut, its callers wait; away, they are refused."""

    def __init__(self, inner: CriticalStore) -> None:
        self.inner = inner
        self.open, self.away = gevent.event.Event(), False
        self.open.set()
        self.kept: list[list[Kept]] = []

    def _pass(self) -> None:
        self.open.wait()
        if self.away:
            raise BrokerUnavailable("Redis is away")

    def keep(self, kept: Sequence[Kept]) -> None:
        self._pass()
        self.kept.append(list(kept))
        self.inner.keep(kept)

    def due(self, users: Sequence[str], lease: float, most: int) -> list[Due]:
        self._pass()
        return self.inner.due(users, lease, most)

    def visit(self, users: Sequence[str], lease: float) -> list[Due]:
        self._pass()
        return self.inner.visit(users, lease)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Critical(World):
    """A worker with critical events; `store` is what it keeps them in, `unreadable` rooms are forbidden to all."""

    unreadable: frozenset[str] = frozenset()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.run(self.fanout.run, self.critical.keep_forever, self.critical.visit_forever)

    def make_critical(self, ledger: Ledger | None) -> CriticalDelivery:
        self.store = Slow(self.backend.critical)
        self.critical: CriticalDelivery = CriticalDelivery(
            self.store, RetryPolicy(2.0, 60.0, 3, uniform=middle),  # type: ignore[arg-type]
            self.connections, self.metrics, lambda session, room: room not in self.unreadable, ledger)
        return self.critical

    def alarm(self, text: object = "!", agent: str = "a", **options: Any) -> str:
        return self.thought(text, agent, critical=True, **options).id

    def state(self, id: str) -> dict[str, tuple[str, int]]:
        return {user: (str(at.state), at.attempts) for user, at in self.backend.critical.status(id).items()}

    def sweep_after(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.critical.sweep()


@pytest.fixture
def worker() -> Iterator[Critical]:
    worker = Critical()
    yield worker
    worker.close()


def ids(session: Session) -> list[str]:
    return [one["id"] for one in peer(session).of("agent-thought")]


def test_it_is_kept_for_every_user_in_the_room_and_nobody_else(worker: Critical) -> None:
    ada, tab, bob = (worker.client("agent:a", user=user) for user in ("ada", "ada", "bob"))
    worker.client("agent:b", user="eve")
    id = worker.alarm()
    eventually(lambda: ids(ada) == ids(tab) == ids(bob) == [id])
    assert worker.state(id) == {"ada": ("pending", 1), "bob": ("pending", 1)}


def test_an_ordinary_event_is_not_kept(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    id = worker.thought("x").id
    assert ids(ada) == [id]
    assert worker.state(id) == {}


def test_it_is_kept_before_it_is_sent_and_the_room_keeps_its_order(worker: Critical) -> None:
    ada, other = worker.client("agent:a", user="ada"), worker.client("agent:b")
    worker.store.open.clear()
    worker.thought("0")
    worker.alarm("1")
    worker.thought("2")
    worker.alarm("3")
    worker.thought("4")
    worker.thought("elsewhere", "b")
    gevent.sleep(0.02)
    assert thoughts(ada) == ["0"]
    assert thoughts(other) == ["elsewhere"]
    worker.store.open.set()
    eventually(lambda: thoughts(ada) == ["0", "1", "2", "3", "4"])
    assert len(worker.store.kept) == 1
    assert not worker.critical.holding


def test_many_are_kept_in_one_round_trip(worker: Critical) -> None:
    ada = worker.client("agent:a", "agent:b", user="ada")
    worker.store.open.clear()
    worker.alarm(0)
    eventually(lambda: worker.critical.holding)
    gevent.sleep(0.01)  # the first one is on its way
    for number in range(1, 20):
        worker.alarm(number, "ab"[number % 2])
    worker.store.open.set()
    eventually(lambda: len(thoughts(ada)) == 20)
    assert [len(kept) for kept in worker.store.kept] == [1, 19]


def test_redis_away_delays_nobody_and_it_is_kept_later(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    worker.store.away = True
    first, second = worker.alarm(1), worker.alarm(2)
    eventually(lambda: ids(ada) == [first, second])
    third = worker.alarm(3)  # it is known to be away: nobody is asked
    assert ids(ada) == [first, second, third]
    with pytest.raises(BrokerUnavailable):
        worker.critical.sweep()
    worker.store.away = False
    worker.critical.sweep()
    assert [worker.state(id) for id in (first, second, third)] == [{"ada": ("pending", 1)}] * 3
    fourth = worker.alarm(4)
    eventually(lambda: ids(ada)[-1] == fourth)
    assert worker.state(fourth)


def test_an_answer_to_what_is_not_kept_yet_counts(worker: Critical) -> None:
    ada, _bob = worker.client("agent:a", user="ada"), worker.client("agent:a", user="bob")
    worker.store.away = True
    id = worker.alarm()
    eventually(lambda: ids(ada) == [id])
    with pytest.raises(BrokerUnavailable):
        worker.critical.ack("ada", id)
    worker.store.away = False
    assert worker.critical.ack("ada", id)
    worker.critical.sweep()
    assert worker.state(id) == {"ada": ("acked", 1), "bob": ("pending", 1)}


def test_what_could_not_be_kept_is_kept_at_the_end(worker: Critical, caplog: pytest.LogCaptureFixture) -> None:
    ada = worker.client("agent:a", user="ada")
    worker.store.away = True
    id = worker.alarm()
    eventually(lambda: ids(ada) == [id])
    worker.critical.flush()
    assert "1 critical events were delivered once and are not kept" in caplog.text
    worker.store.away = False
    worker.critical.flush()
    assert worker.state(id) == {"ada": ("pending", 1)}


def test_the_waiting_list_is_bounded(worker: Critical, monkeypatch: pytest.MonkeyPatch,
                                     caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("wsapp.runtime.critical.LATER_LIMIT", 2)
    worker.client("agent:a", user="ada")
    worker.store.away = True
    found = [worker.alarm(number) for number in range(3)]
    eventually(lambda: not worker.critical.holding)
    worker.store.away = False
    worker.critical.flush()
    assert [bool(worker.state(id)) for id in found] == [False, True, True]
    assert found[0] in caplog.text


def test_unacknowledged_it_comes_again_and_again_and_is_given_up(worker: Critical) -> None:
    ada, tab = worker.client("agent:a", user="ada"), worker.client(user="ada")
    id = worker.alarm()
    eventually(lambda: ids(ada) == [id])
    worker.critical.sweep()
    assert ids(ada) == [id]
    worker.sweep_after(2.1)
    assert ids(ada) == [id] * 2
    assert ids(tab) == [id]  # another tab of the user, wherever it is
    assert peer(ada).events[0] == peer(ada).events[1]
    worker.sweep_after(2.1)
    assert ids(ada) == [id] * 2
    worker.sweep_after(2.1)
    assert ids(ada) == [id] * 3
    worker.sweep_after(8.1)
    assert ids(ada) == [id] * 3
    assert worker.state(id) == {"ada": ("dead", 3)}
    assert [letter.id for letter in worker.backend.critical.dead(10)] == [id]
    assert (worker.metrics.redelivered, worker.metrics.dead_letters) == (4, 1)


def test_acknowledged_it_does_not_come_again(worker: Critical) -> None:
    ada, bob = worker.client("agent:a", user="ada"), worker.client("agent:a", user="bob")
    id = worker.alarm()
    eventually(lambda: ids(ada) == ids(bob) == [id])
    assert worker.critical.ack("ada", id)
    worker.sweep_after(2.1)
    assert (ids(ada), ids(bob)) == ([id], [id, id])
    assert not worker.critical.ack("eve", id)


def test_refused_it_comes_soon_and_is_given_up_after_as_many_sendings(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    id = worker.alarm()
    eventually(lambda: ids(ada) == [id])
    for attempts in (1, 2):
        assert worker.critical.nack("ada", id) == (Fate.PENDING, attempts)
        worker.sweep_after(0.6)
        assert ids(ada) == [id] * (attempts + 1)
    assert worker.critical.nack("ada", id) == (Fate.DEAD, 3)
    assert worker.critical.nack("ada", id) is None
    assert worker.backend.critical.requeue("ada", id)
    worker.sweep_after(0.1)
    assert ids(ada) == [id] * 4
    assert worker.state(id) == {"ada": ("pending", 1)}


def test_who_comes_gets_what_is_pending(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    first, second = worker.alarm(1), worker.alarm(2)
    eventually(lambda: ids(ada) == [first, second])
    worker.connections.handle_disconnection(ada.sid)
    back, stranger = worker.client(user="ada"), worker.client(user="eve")
    worker.critical.arrived(back)
    worker.critical.arrived(stranger)
    eventually(lambda: ids(back) == [first, second])
    assert ids(stranger) == []
    assert worker.state(first) == {"ada": ("pending", 1)}
    worker.critical.sweep()  # not at once a second time
    assert ids(back) == [first, second]


def test_what_was_just_replayed_is_not_sent_twice(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    position = worker.registry.rooms["agent:a"].track.position
    worker.connections.handle_disconnection(ada.sid)
    id = worker.alarm()
    assert worker.state(id) == {}
    back = worker.client(user="ada")
    recovery = worker.join(back, {"agent:a": Position(position.epoch, 0)})
    recovery.release()
    assert ids(back) == [id]
    assert worker.state(id) == {"ada": ("pending", 1)}  # a replay is a delivery
    worker.critical.arrived(back, recovery.critical)
    eventually(lambda: not worker.critical._arrived)
    gevent.sleep(0.01)
    assert ids(back) == [id]


def test_who_came_while_redis_was_away_gets_it_afterwards(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    id = worker.alarm()
    eventually(lambda: ids(ada) == [id])
    worker.connections.handle_disconnection(ada.sid)
    worker.store.away = True
    back = worker.client(user="ada")
    worker.critical.arrived(back)
    gevent.sleep(0.01)
    assert ids(back) == []
    worker.store.away = False
    worker.critical.sweep()
    eventually(lambda: ids(back) == [id])


def test_who_has_gone_meanwhile_is_not_sent_anything(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    worker.alarm()
    back = worker.client(user="ada")
    worker.store.open.clear()
    worker.critical.arrived(back)
    gevent.sleep(0.01)
    worker.connections.forget(back.sid)
    worker.store.open.set()
    gevent.sleep(0.02)
    assert (len(ids(ada)), ids(back)) == (1, [])


def test_two_workers_share_a_user(worker: Critical) -> None:
    other = Critical(boot="w2", backend=worker.backend)
    here, there = worker.client("agent:a", user="ada"), other.client(user="ada")
    other.backend.start("w1", worker._record, worker.delivery.on_gap, lambda _: None, worker._control)
    id = worker.alarm()
    eventually(lambda: ids(here) == [id])
    worker.pass_time(2.1)
    other.critical.sweep()
    worker.critical.sweep()
    assert (ids(here), ids(there)) == ([id], [id])
    assert other.critical.ack("ada", id)
    worker.sweep_after(60)
    assert ids(here) == [id]


def test_a_copy_is_the_frame_of_the_first_time(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    sdk = worker.client("agent:a", user="ada", profile=Profile.SDK)
    id = worker.alarm()
    eventually(lambda: ids(ada) == [id])
    worker.sweep_after(2.1)
    assert peer(ada).events[0] == peer(ada).events[1]
    assert peer(sdk).events[0] == peer(sdk).events[1]
    assert peer(sdk).events[0][2]["critical"] is True


def test_served_while_redis_was_away_it_is_kept_once(worker: Critical) -> None:
    """As the outbox does it: known to watchers under the id that it is recorded under."""
    ada = worker.client("agent:a", user="ada")
    alone = Publication("x1", 1, 9, "ic", Lane.CRITICAL, "", "agent-thought", (Placed("agent:a", 0, ""),),
                        json.dumps({"agentId": "a", "thought": "!"}).encode())
    worker.fanout.serve_unrecorded(alone)
    assert ids(ada) == ["x1"]
    room = worker.registry.rooms["agent:a"]
    recorded = Publication("x1", 1, 9, "ic", Lane.CRITICAL, "", "agent-thought", (Placed("agent:a", 1, "e"),),
                           alone.body)
    worker.fanout.pass_on(room, recorded, 1)
    worker.critical.sweep()
    assert worker.state("x1") == {"ada": ("pending", 1)}
    assert ids(ada) == ["x1"]


def test_who_may_not_read_the_room_any_more_is_not_sent_it(worker: Critical) -> None:
    ada = worker.client("agent:a", user="ada")
    id = worker.alarm()
    eventually(lambda: ids(ada) == [id])
    worker.unreadable = frozenset({"agent:a"})
    worker.sweep_after(2.1)
    assert ids(ada) == [id]


def test_the_loops_are_three(worker: Critical) -> None:
    names: list[str] = []
    worker.critical.start(lambda name, _loop: names.append(name))
    assert len(names) == 3


def test_the_sweep_goes_on_when_redis_is_away(worker: Critical) -> None:
    quick = CriticalDelivery(worker.store, RetryPolicy(0.2, attempts=9),  # type: ignore[arg-type]
                             worker.connections, worker.metrics, lambda _session, _room: True)
    worker.fanout.critical = quick
    worker.store.away = True
    worker.run(quick.keep_forever, quick.sweep_forever)
    ada = worker.client("agent:a", user="ada")
    id = worker.alarm()
    eventually(lambda: ids(ada) == [id])
    gevent.sleep(0.1)
    worker.store.away = False
    eventually(lambda: len(ids(ada)) >= 3)
    assert set(ids(ada)) == {id}
