"""The flush: what waits leaves at the users' rates, and others get their turn."""

from __future__ import annotations

import gevent

from tests.runtime.world import World, eventually, numbers, peer, thoughts
from wsapp.core.events import Profile
from wsapp.runtime.flusher import USERS_AT_ONCE


def test_it_sleeps_until_somebody_is_behind(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    throttled.run(throttled.fanout.flusher.run)
    gevent.sleep(0)
    for number in range(4):
        throttled.thought(number)
    eventually(lambda: thoughts(session) == numbers(4))
    assert throttled.throttler.next_flush is None
    assert throttled.throttler.deferred == 2


def test_a_flush_of_many_users_lets_others_run(throttled: World) -> None:
    for number in range(2 * USERS_AT_ONCE):
        throttled.client("agent:a", user=f"u{number}")
    throttled.run(throttled.fanout.run, throttled.fanout.flusher.run)
    for number in range(4):
        throttled.thought(number)
    sessions = throttled.connections.sessions()
    counts: list[list[int]] = []
    while not all(len(thoughts(session)) == 4 for session in sessions):
        counts.append([len(thoughts(session)) for session in sessions])
        gevent.sleep(0)
    assert any(min(count) == 2 and max(count) == 4 for count in counts), "the flush gives way in between"


def test_what_is_shed_is_reported_once_the_client_reads_again(throttled: World) -> None:
    session = throttled.client("agent:a", user="u", profile=Profile.SDK)
    peer(session).waiting = 1_000_000
    for number in range(20):
        throttled.thought(number)
        throttled.throttler.get_queue_depth("u")
    assert peer(session).of("shed") == []
    peer(session).waiting = 0
    throttled.pass_time(1)
    throttled.throttler.flush()
    [shed] = peer(session).of("shed")
    assert (shed["from"], shed["to"], shed["count"]) == (3, 12, 10)
    assert thoughts(session) == [*numbers(2), *numbers(12, 20)]
