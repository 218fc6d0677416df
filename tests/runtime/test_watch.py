"""The parts that watch over a worker run when they are asked for, and rest while Redis is away."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.runtime.world import World, eventually, peer
from wsapp.core.events import Profile
from wsapp.core.link import LinkState
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.greenlets import Greenlets
from wsapp.runtime.link import Links
from wsapp.runtime.watch import Watch
from wsapp.settings import load_settings


class Shared:
    """The memory backend as if other processes saw it."""

    shared, deaf = True, None

    def __init__(self, world: World) -> None:
        self.broker, self.reconnected = world.broker, 0

    def reconnect(self) -> None:
        self.reconnected += 1


def made(world: World, backend: Any = None, **settings: Any) -> tuple[Watch, Links]:
    links = Links(lambda _state: None)
    off = {"heads_interval": 0.0, "beacon": 0.0, "canary": 0.0}
    watch = Watch(load_settings({}, {**off, **settings}), backend or world.backend, world.delivery, world.connections,
                  links)
    return watch, links


def test_everything_is_off_at_zero(world: World) -> None:
    watch, _ = made(world, Shared(world))
    greenlets = Greenlets()
    watch.start("w1", greenlets)
    assert greenlets._running == []
    assert (watch.trouble(), watch.facts()) == (None, {})


def test_each_part_runs_at_its_interval(world: World) -> None:
    sdk = world.client("agent:a", profile=Profile.SDK)
    watch, _ = made(world, Shared(world), heads_interval=0.01, beacon=0.01, canary=0.01)
    greenlets = Greenlets()
    watch.start("w1", greenlets)
    world.lost = lambda room, _seq: room == "agent:a"
    world.thought("x")
    eventually(lambda: peer(sdk).of("beacon") and peer(sdk).of("agent-thought"))
    eventually(lambda: watch.facts().get("canaryDelay"))
    assert watch.trouble() is None
    greenlets.stop()


def test_memory_needs_no_canary(world: World) -> None:
    watch, _ = made(world, canary=0.01)
    watch.start("w1", Greenlets())
    assert watch.canary is None


def test_a_lost_redis_is_the_trouble_and_nothing_else_is_tried(world: World) -> None:
    sdk = world.client("agent:a", profile=Profile.SDK)
    watch, links = made(world)

    def refuse(_rooms: object) -> Any:
        raise BrokerUnavailable("away")

    world.broker.heads = refuse  # type: ignore[method-assign]
    watch.check_heads()
    assert watch.trouble() == "Redis is away: away"
    assert str(links.state) == "degraded"
    watch.check_heads()
    watch.send_beacon()
    gevent.sleep(0)
    assert not peer(sdk).of("beacon")


def test_a_failing_canary_is_the_trouble(world: World) -> None:
    watch, _ = made(world, Shared(world), canary=0.05)
    greenlets = Greenlets()
    watch.start("w1", greenlets)
    assert watch.canary is not None
    watch.canary.failing = True
    assert watch.trouble() == "events do not arrive"
    greenlets.stop()


def test_the_connection_that_publishes_is_kept_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapp.runtime.watch.WARM_EVERY", 0.005)
    watch, links = made(world, Shared(world))
    asked: list[bool] = []

    def ask() -> None:
        asked.append(True)
        raise BrokerUnavailable("not now")

    watch.warm = ask
    greenlets = Greenlets()
    watch.start("w1", greenlets)
    eventually(lambda: len(asked) > 2)
    assert links.state is LinkState.UP, "only a publish says that Redis is away"
    greenlets.stop()

