"""Dividing the rooms anew."""

from __future__ import annotations

import pytest

from tests.backends.conftest import World, draft
from tests.valkey import Valkey, free_port
from tests.valkey_cluster import ValkeyCluster
from wsapp.backends.division import divide, living, read_division
from wsapp.core.ports import HistoryQuery
from wsapp.errors import BrokerUnavailable

ROOMS = [f"agent:{number}" for number in range(8)]


@pytest.fixture(params=["plain", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    server: Valkey | ValkeyCluster = request.getfixturevalue("valkey" if request.param == "plain" else "valkeys")
    return server.url


def opened(world: World, partitions: int) -> World:
    other = World(world.url, partitions)
    other.prefix = world.prefix
    return other


def test_nobody_was_here(url: str) -> None:
    assert read_division(url, "nobody:", 1.0) is None
    assert living(url, "nobody:", 1.0) == []


def test_the_first_to_connect_decides(url: str) -> None:
    world = World(url, 3)
    world.open().ping()
    assert read_division(url, world.prefix, 1.0) == 3
    world.close()


def test_workers_are_seen(url: str) -> None:
    world = World(url)
    backend = world.open()
    backend.cluster.beat("there", {}, 5.0)
    backend.cluster.beat("gone", {}, 0.001)
    world.pass_time(0.01)
    assert living(url, world.prefix, 1.0) == ["there"]
    world.close()


def test_divided_anew_every_room_begins_anew(url: str) -> None:
    """Also back again: nobody resumes over what happened meanwhile."""
    whole = World(url)
    whole.open().broker.publish([draft(room) for room in ROOMS])
    before = whole.open().broker.heads(ROOMS)
    divide(url, whole.prefix, 4, 1.0)
    parted = opened(whole, 4)
    broker = parted.open().broker
    assert [page.publications for page in broker.read([HistoryQuery(room) for room in ROOMS])] == [()] * 8
    broker.publish([draft(room) for room in ROOMS])
    divide(url, whole.prefix, 1, 1.0)
    assert read_division(url, whole.prefix, 1.0) == 1
    again = opened(whole, 1)
    receipts = again.open().broker.publish([draft(room) for room in ROOMS])
    for room, receipt in zip(ROOMS, receipts, strict=True):
        assert receipt.positions[room].seq == 1
        assert receipt.positions[room].epoch != before[room].epoch
    for world in (whole, parted, again):
        world.close()


def test_away() -> None:
    with pytest.raises(BrokerUnavailable):
        read_division(f"redis://127.0.0.1:{free_port()}/0", "p:", 0.5)
