"""When a critical event comes again, and how its publisher follows it."""

from __future__ import annotations

import random

import pytest

from wsapp.backends.memory import MemoryBackend
from wsapp.core.critical import Acknowledged, RetryPolicy, told_letter, told_status, wait_for_ack
from wsapp.core.ports import CriticalStore, DeadLetter, Due, Fate, Kept, Receipt, Retry, UserDelivery
from wsapp.errors import BrokerUnavailable


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def due(attempts: int) -> Due:
    return Due("ada", "a", attempts, b"")


def test_delays_double_up_to_the_cap() -> None:
    policy = RetryPolicy(2.0, 60.0, 5, uniform=middle)
    assert [policy.delay(attempts) for attempts in range(1, 9)] == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60])
    assert policy.delay(10_000) == pytest.approx(60)
    assert policy.delay(0) == pytest.approx(2)


def test_delays_differ_by_at_most_a_fifth() -> None:
    policy = RetryPolicy(2.0, uniform=random.Random(7).uniform)
    delays = [policy.delay(2) for _ in range(200)]
    assert 3.2 <= min(delays) < 3.4 and 4.6 < max(delays) <= 4.8


def test_after_its_last_sending_an_event_is_buried() -> None:
    policy = RetryPolicy(2.0, 60.0, 3, uniform=middle)
    assert [policy.exhausted(due(attempts)) for attempts in (1, 2, 3, 4)] == [False, False, False, True]
    assert policy.after(due(4)) == Retry("ada", "a", 0.0, 0)
    third = policy.after(due(3))
    assert third.delay == pytest.approx(8) and third.most > 1_000_000


def test_a_refused_event_comes_soon_until_it_was_sent_often_enough() -> None:
    assert RetryPolicy(2.0, 60.0, 3, uniform=middle).refused("ada", "a") == Retry("ada", "a", 0.5, 3)
    assert RetryPolicy(100.0, 5.0, 3, uniform=middle).refused("ada", "a").delay == 5.0


@pytest.mark.parametrize(("first", "sweep"), [(0.1, 0.05), (1.0, 0.25), (2.0, 0.5), (60.0, 1.0)])
def test_looks_are_as_frequent_as_the_delays_need(first: float, sweep: float) -> None:
    policy = RetryPolicy(first)
    assert policy.sweep == sweep
    assert policy.lease >= policy.sweep


def test_status_and_letters_as_they_are_told() -> None:
    assert told_status("a", {"bob": UserDelivery(Fate.ACKED, 2), "ada": UserDelivery(Fate.DEAD, 5)}) == {
        "id": "a", "users": {"ada": {"state": "dead", "attempts": 5}, "bob": {"state": "acked", "attempts": 2}}}
    record = b'a\t7\t5\tisc\tc\t\tdeploy\tproject:p\t3\te\n{"n":1}'
    assert told_letter(DeadLetter("ada", "a", 5, 1.5, record)) == {
        "id": "a", "user": "ada", "attempts": 5, "died": 1500, "event": "deploy", "data": {"n": 1},
        "rooms": ["project:p"]}


class Clock:
    """Time that passes only while somebody sleeps; what is planned happens meanwhile."""

    def __init__(self, store: CriticalStore) -> None:
        self.store, self.now = store, 0.0
        self.plan: list[tuple[float, str]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        while self.plan and self.plan[0][0] <= self.now:
            self.store.ack(self.plan.pop(0)[1], "a")

    def wait(self, timeout: float, *users: str) -> bool:
        return wait_for_ack(self.store, "a", timeout, users or None, clock=self, sleep=self.sleep)


@pytest.fixture
def clock() -> Clock:
    return Clock(MemoryBackend().critical)


def test_waiting_for_everybody(clock: Clock) -> None:
    clock.store.keep([Kept("a", b"", ("ada", "bob"), 1.0)])
    clock.plan = [(1.0, "ada"), (2.0, "bob")]
    assert clock.wait(5.0)
    assert 2.0 <= clock.now < 2.5


def test_everybody_is_known_after_a_moment_only(clock: Clock) -> None:
    """The worker of another user may not have said yet that it keeps it."""
    clock.store.keep([Kept("a", b"", ("ada",), 1.0)])
    clock.store.ack("ada", "a")
    assert clock.wait(5.0)
    assert 0.3 <= clock.now < 0.5


def test_waiting_for_some(clock: Clock) -> None:
    clock.store.keep([Kept("a", b"", ("ada", "bob"), 1.0)])
    clock.store.ack("ada", "a")
    assert clock.wait(5.0, "ada")
    assert clock.now == 0
    assert not clock.wait(1.0, "ada", "eve")


def test_time_is_up(clock: Clock) -> None:
    clock.store.keep([Kept("a", b"", ("ada",), 1.0)])
    assert not clock.wait(1.0)
    assert clock.now == pytest.approx(1.0)
    assert not clock.wait(0.0)


def test_nobody_is_no_acknowledgement(clock: Clock) -> None:
    assert not clock.wait(1.0)


def test_a_dead_letter_ends_the_waiting(clock: Clock) -> None:
    clock.store.keep([Kept("a", b"", ("ada", "bob"), 1.0)])
    clock.store.retry([Retry("ada", "a", 0.0, 0)])
    assert not clock.wait(50.0, "ada")
    assert clock.now < 1


class Away:
    """Does not answer the first `calls` times."""

    def __init__(self, inner: CriticalStore, calls: int) -> None:
        self.inner, self.calls = inner, calls

    def status(self, id: str) -> dict[str, UserDelivery]:
        self.calls -= 1
        if self.calls >= 0:
            raise BrokerUnavailable("away")
        return self.inner.status(id)


def test_a_store_that_is_away_is_asked_again(clock: Clock) -> None:
    inner = clock.store
    inner.keep([Kept("a", b"", ("ada",), 1.0)])
    inner.ack("ada", "a")
    clock.store = Away(inner, 3)  # type: ignore[assignment]
    assert clock.wait(5.0, "ada")
    clock.store = Away(inner, 1000)  # type: ignore[assignment]
    with pytest.raises(BrokerUnavailable):
        clock.wait(1.0)


def test_what_publishers_and_operators_can_do() -> None:
    class Owner(Acknowledged):
        critical_store = MemoryBackend().critical

    owner = Owner()
    owner.critical_store.keep([Kept("a", b"a\t7\t5\tc\tc\t\tdeploy\tproject:p\t3\te\n{}", ("ada",), 1.0)])
    assert owner.delivery_status("a")["users"] == {"ada": {"state": "pending", "attempts": 1}}
    owner.critical_store.retry([Retry("ada", "a", 0.0, 0)])
    assert [letter["id"] for letter in owner.dead_letters()] == ["a"]
    assert owner.requeue_dead_letter("a", "ada")
    assert not owner.requeue_dead_letter("a", "ada")
    assert not owner.drop_dead_letter("a", "ada")
    owner.critical_store.ack("ada", "a")
    assert owner.wait_for_ack(Receipt("a", ()), 0.0, users=["ada"])
    assert owner.wait_for_ack("a", 0.0, users=["ada"])
