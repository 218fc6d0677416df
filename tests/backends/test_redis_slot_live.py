"""The live connection of a partition in a cluster: sharded channels, followed where their slot goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.conftest import Listener, World, draft, eventually
from tests.valkey_cluster import ValkeyCluster
from wsapp.backends.redis_keys import RedisKeys

ROOM = "agent:a"


@pytest.fixture
def single(valkeys: ValkeyCluster) -> Iterator[World]:
    """One partition, "0", in a cluster."""
    world = World(valkeys.url)
    yield world
    world.close()


def follow(world: World) -> Listener:
    listener = world.listen()
    listener.backend.broker.subscribe([ROOM])
    return listener


def test_rooms_are_heard_from_the_owner_and_from_nobody_else(single: World, valkeys: ValkeyCluster) -> None:
    listener = follow(single)
    listener.backend.broker.publish([draft(ROOM)])
    eventually(lambda: listener.seqs(ROOM) == [1])
    channel = RedisKeys(single.prefix, sharded=True).room_channels + ROOM
    counts = [valkeys.ask(node, "PUBSUB", "SHARDNUMSUB", channel)[1] for node in valkeys.nodes]
    assert sum(counts) == 1
    assert valkeys.nodes[counts.index(1)] is valkeys.owner(RedisKeys().slot)


def test_the_stock_channel_is_heard_from_every_node(single: World, valkeys: ValkeyCluster) -> None:
    """As `SocketIO(message_queue="redis://any-node")` writes to it."""
    listener = follow(single)
    for node in valkeys.nodes:
        valkeys.ask(node, "PUBLISH", single.prefix + "stock", f"by {node.port}")
    eventually(lambda: {message.decode() for message in listener.bus} == {f"by {node.port}" for node in valkeys.nodes})


def test_it_moves_with_its_slot(single: World, valkeys: ValkeyCluster) -> None:
    listener, slot = follow(single), RedisKeys().slot
    source, target = valkeys.owner(slot), valkeys.nodes[0]
    valkeys.move(slot, source, target)
    try:
        eventually(lambda: listener.gaps == 1)
        listener.backend.broker.publish([draft(ROOM)])
        eventually(lambda: len(listener.records) == 1)
    finally:
        valkeys.move(slot, target, source)
    eventually(lambda: listener.gaps == 2)


def test_leaving_and_joining_at_once_is_no_move(single: World) -> None:
    listener = follow(single)
    broker = listener.backend.broker
    for _ in range(20):
        broker.unsubscribe([ROOM])
        broker.subscribe([ROOM])
    broker.publish([draft(ROOM)])
    eventually(lambda: len(listener.records) == 1)
    assert listener.gaps == 0


def test_a_failing_callback_does_not_end_the_listening(single: World) -> None:
    listener = follow(single)
    listener.failures = 1
    listener.backend.broker.publish([draft(ROOM), draft(ROOM)])
    eventually(lambda: listener.seqs(ROOM) == [2])
