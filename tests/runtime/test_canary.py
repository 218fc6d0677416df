"""The worker's own probe: back in time, or the worker says so and mends its live connection."""

from __future__ import annotations

import pytest

from tests.runtime.world import World, eventually
from wsapp.errors import BrokerUnavailable
from wsapp.runtime import canary as module
from wsapp.runtime.canary import Canary


@pytest.fixture(autouse=True)
def no_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLACK", 0.0)


def made(world: World, mend: list[str], away: list[BrokerUnavailable]) -> Canary:
    return Canary("w1", world.delivery, world.broker, lambda: mend.append("mended"), away.append, 0.05)


def test_a_probe_comes_back(world: World) -> None:
    mend: list[str] = []
    canary = made(world, mend, [])
    for _ in range(3):
        assert canary.turn() == 0.05
    assert (canary.failing, canary.seen, mend, world.metrics.canary_lost) == (False, 3, [], 0)
    assert canary.delay > 0
    facts = canary.facts()
    assert (facts["messagesSent"], facts["eventsDelivered"]) == (0, 0), "probes are no messages"
    assert facts["canaryDelay"] > 0


def test_it_is_no_connection_and_in_nobodys_way(world: World) -> None:
    canary = made(world, [], [])
    canary.turn()
    assert world.connections.get_connection_count() == 0
    world.delivery.close_vacant()
    canary.turn()
    assert canary.seen == 2


def test_a_probe_that_stays_away_mends_and_heals(world: World) -> None:
    mend: list[str] = []
    canary = made(world, mend, [])
    canary.turn()
    world.lost = lambda _room, _seq: True
    canary.turn()
    assert (canary.failing, mend, world.metrics.canary_lost) == (True, ["mended"], 1)
    world.lost = lambda _room, _seq: False
    canary.turn()
    assert canary.failing is False
    assert canary.seen == 3, "the lost one was read from history"


def test_an_older_probe_is_no_proof(world: World) -> None:
    canary = made(world, [], [])
    canary.turn()
    world.lost = lambda _room, seq: seq in (2, 3)
    canary.turn()
    assert canary.failing
    world.delivery.on_gap()
    eventually(lambda: canary.seen == 2)
    canary.turn()
    assert canary.failing, "the second one came late, the third not at all"


def test_a_broker_that_is_away_is_told(world: World) -> None:
    away: list[BrokerUnavailable] = []
    canary = made(world, [], away)

    def refuse() -> None:
        raise BrokerUnavailable("away")

    world.broker.before.append(refuse)
    assert canary.turn() == 0.05
    assert len(away) == 1
    assert canary.failing is False
    canary.turn()
    assert canary.seen == 1
