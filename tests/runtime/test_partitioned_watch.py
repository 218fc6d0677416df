"""Each partition is watched by itself."""

from __future__ import annotations

from typing import Any

import gevent

from tests.runtime.test_outlets import COUNT, A, B, Office
from tests.runtime.world import World, eventually
from wsapp.core.events import Position
from wsapp.core.partitions import partition_of
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.greenlets import Greenlets
from wsapp.runtime.partitioned_watch import PartitionedWatch
from wsapp.settings import load_settings


class Parts:
    """The memory backend as if it were several partitions; `mute` ones give nothing back."""

    shared, deaf = True, None

    def __init__(self, world: World) -> None:
        self.broker, self.mute = world.broker, set[int]()
        self.parts = [Part(self, number) for number in range(COUNT)]
        self.reconnected: list[int] = []
        world.lost = lambda room, _seq: partition_of(room, COUNT) in self.mute


class Part:
    def __init__(self, whole: Parts, number: int) -> None:
        self._whole, self._number = whole, number

    def reconnect(self) -> None:
        self._whole.reconnected.append(self._number)
        self._whole.mute.discard(self._number)


def made(world: World, backend: Any, office: Office, **settings: Any) -> PartitionedWatch:
    off = {"heads_interval": 0.0, "beacon": 0.0, "canary": 0.0}
    return PartitionedWatch(load_settings({}, {**off, **settings}), backend, world.delivery, world.connections,
                            office.links)


def test_a_deaf_partition_is_found_and_mended_alone(world: World) -> None:
    backend, office, greenlets = Parts(world), Office(), Greenlets()
    watch = made(world, backend, office, canary=0.02)
    assert (watch.trouble(), watch.facts()) == (None, {})
    watch.start("w1", greenlets)
    eventually(lambda: [canary.seen > 0 for canary in watch.canaries] == [True] * COUNT)
    assert watch.facts()["eventsDelivered"] == 0, "probes are no events"
    backend.mute.add(1)
    eventually(lambda: watch.trouble() == "events do not arrive (partition 1)")
    eventually(lambda: watch.trouble() is None)
    assert set(backend.reconnected) == {1}
    greenlets.stop()
    office.running.kill()


def test_heads_of_what_is_away_are_not_asked_for(world: World) -> None:
    office = Office()
    watch = made(world, Parts(world), office)
    world.client(A, B)
    asked: list[list[str]] = []

    def heads(rooms: list[str]) -> dict[str, Position]:
        asked.append(list(rooms))
        if B in rooms:
            error = BrokerUnavailable("away")
            error.partition = 1
            office.parts[1].away = True
            raise error
        return dict.fromkeys(rooms, Position("", 0))

    world.broker.heads = heads  # type: ignore[method-assign,assignment]
    watch.check_heads()
    gevent.sleep(0)
    assert watch.trouble() == "Redis is away: partition 1: away"
    watch.check_heads()
    assert asked == [[A, B], [A]]
    office.running.kill()
