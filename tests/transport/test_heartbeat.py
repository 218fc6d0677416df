"""The wheel, turned by hand with a fake clock."""

from __future__ import annotations

import logging

import gevent
import pytest

from wsapp.transport.heartbeat import LOOK, Heartbeat


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A connection that notes when it was pinged, and answers after `answers` seconds."""

    def __init__(self, clock: Clock, answers: float | None = 0.0) -> None:
        self._clock, self._answers = clock, answers
        self.pinged_at, self.awaiting_pong, self.closed = 0.0, False, False
        self.pings: list[float] = []
        self.ended: list[float] = []
        self.checks = 0
        self.urgent_after: float | None = None

    def wants_ping(self) -> bool:
        elapsed = self._clock.now - self.pinged_at
        return self.urgent_after is not None and elapsed >= self.urgent_after

    def ping(self) -> None:
        self.pings.append(self._clock.now - 1000)

    def timed_out(self) -> None:
        self.ended.append(self._clock.now - 1000)
        self.closed = True

    def check(self, now: float) -> None:
        self.checks += 1

    def live(self) -> None:
        if self.awaiting_pong and self._answers is not None and self._clock.now >= self.pinged_at + self._answers:
            self.awaiting_pong = False


class Wheel:
    def __init__(self, interval: float = 5.0, timeout: float = 3.0) -> None:
        self.clock = Clock()
        self.heartbeat = Heartbeat(interval, timeout, self.clock)
        self.tick = self.heartbeat._tick
        self.clients: list[Client] = []

    def client(self, answers: float | None = 0.0) -> Client:
        made = Client(self.clock, answers)
        self.clients.append(made)
        self.heartbeat.add(made)
        return made

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / self.tick)):
            self.clock.now += self.tick
            self.heartbeat.turn(self.clock.now)
            for client in self.clients:
                client.live()


def near(times: list[float], expected: list[float], within: float) -> bool:
    return len(times) == len(expected) and all(abs(a - b) <= within for a, b in zip(times, expected, strict=True))


def test_a_quiet_client_is_pinged_every_interval() -> None:
    wheel = Wheel()
    client = wheel.client()
    wheel.run(26)
    assert near(client.pings, [5, 10, 15, 20, 25], 5 * wheel.tick)
    assert client.ended == []


def test_one_who_does_not_answer_is_gone_after_the_timeout_and_told_once() -> None:
    wheel = Wheel()
    client = wheel.client(answers=None)
    wheel.run(30)
    assert near(client.pings, [5], wheel.tick)
    assert near(client.ended, [8], 2 * wheel.tick)


def test_one_who_answers_in_the_last_moment_stays() -> None:
    wheel = Wheel()
    client = wheel.client(answers=2.8)
    wheel.run(30)
    assert len(client.pings) >= 4
    assert client.ended == []


@pytest.mark.parametrize(("interval", "timeout"), [(25.0, 20.0), (0.4, 0.3), (120.0, 60.0), (1.0, 60.0)])
def test_any_interval_and_timeout(interval: float, timeout: float) -> None:
    wheel = Wheel(interval, timeout)
    alive, dead = wheel.client(), wheel.client(answers=None)
    wheel.run(3 * interval + timeout)
    assert near(alive.pings[:3], [interval, 2 * interval, 3 * interval], 4 * wheel.tick)
    assert near(dead.ended, [interval + timeout], 3 * wheel.tick)


def test_a_slow_answer_does_not_put_off_the_next_ping() -> None:
    wheel = Wheel(interval=5.0, timeout=60.0)
    client = wheel.client(answers=2.0)
    wheel.run(21)
    assert near(client.pings, [5, 10, 15, 20], LOOK)


def test_proof_that_is_wanted_comes_sooner() -> None:
    wheel = Wheel(interval=25.0, timeout=20.0)
    client = wheel.client()
    client.urgent_after = 0.0
    wheel.run(2 * LOOK)
    assert near(client.pings, [LOOK, 2 * LOOK], 2 * wheel.tick)
    client.urgent_after = None
    wheel.run(20)
    assert len(client.pings) == 2
    client.urgent_after = 10.0
    wheel.run(5)
    assert len(client.pings) == 3


def test_proof_is_not_asked_for_twice_at_a_time() -> None:
    wheel = Wheel(interval=25.0, timeout=20.0)
    client = wheel.client(answers=None)
    client.urgent_after = 0.0
    wheel.run(15)
    assert len(client.pings) == 1


def test_every_look_checks_the_outbox() -> None:
    wheel = Wheel(interval=25.0, timeout=20.0)
    client = wheel.client()
    wheel.run(10 * LOOK)
    assert client.checks >= 9


def test_a_closed_connection_is_let_go() -> None:
    wheel = Wheel()
    client = wheel.client()
    client.closed = True
    wheel.run(20)
    assert (client.pings, client.ended, client.checks) == ([], [], 0)
    assert not any(wheel.heartbeat._wheel)


def test_one_that_fails_is_logged_and_neither_it_nor_the_others_are_lost(caplog: pytest.LogCaptureFixture) -> None:
    wheel = Wheel()
    broken, other = wheel.client(), wheel.client()
    fails = [True]

    def check(now: float) -> None:
        if fails:
            fails.clear()
            raise RuntimeError("once")

    broken.check = check  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        wheel.run(11)
    assert "heartbeat failed" in caplog.text
    assert near(other.pings, [5, 10], 3 * wheel.tick)
    assert near(broken.pings, [5, 10], LOOK)


def test_one_added_in_a_turn_waits_for_its_own() -> None:
    wheel = Wheel()
    wheel.run(3.3)
    late = wheel.client()
    wheel.run(5.5)
    assert near(late.pings, [8.3], 3 * wheel.tick)


class Counting(Heartbeat):
    turns = 0

    def turn(self, now: float) -> None:
        self.turns += 1
        super().turn(now)


def test_a_process_that_was_stopped_does_not_make_up_for_its_ticks() -> None:
    clock = Clock()
    heartbeat = Counting(25.0, 20.0, clock)
    heartbeat.start()
    heartbeat.start()
    gevent.sleep(0)
    clock.now += 3600
    for _ in range(50):
        gevent.sleep(0.001)
    try:
        assert heartbeat.turns <= 4
        before = heartbeat.turns
        for _ in range(20):
            clock.now += heartbeat._tick
            gevent.sleep(heartbeat._tick / 10)
        assert heartbeat.turns > before
    finally:
        heartbeat.stop()
        heartbeat.stop()
    gevent.sleep(0)
    before = heartbeat.turns
    clock.now += 10
    gevent.sleep(0.02)
    assert heartbeat.turns == before


def test_a_ping_that_came_late_leaves_less_time_for_its_answer() -> None:
    """A client counts from the PING before; three quarters of the timeout at most are taken from it."""
    for late, taken in ((0.5, 0.5), (4.0, 2.25)):
        wheel = Wheel(interval=5.0, timeout=3.0)
        client = wheel.client(answers=None)
        wheel.run(4.5)
        wheel.clock.now += late
        wheel.run(5)
        assert len(client.pings) == 1
        waited = client.ended[0] - client.pings[0]
        assert abs(waited - (3.0 - min(taken, max(0.0, client.pings[0] - 5.0)))) <= 2 * wheel.tick
