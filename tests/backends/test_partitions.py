"""Several partitions as one backend: the contract on a real cluster, and what is theirs alone on plain servers too."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from tests.backends import test_contract as contract
from tests.backends import test_critical_contract, test_redis_api_keys, test_redis_presence, test_redis_revocations
from tests.backends.conftest import World, draft, eventually
from tests.valkey import Valkey
from tests.valkey_cluster import ValkeyCluster
from wsapp.backends.memory import MemoryBackend
from wsapp.backends.partitions import PartitionedBroker
from wsapp.core.events import Draft, Position
from wsapp.core.partitions import SPREAD, room_in
from wsapp.core.ports import HistoryQuery, Receipt, Watching
from wsapp.errors import BrokerUnavailable, PartitionMismatch

COUNT = 5  # the contract's two rooms are in different ones then
A, B, C = (room_in("agent:x", number, COUNT) for number in (1, 2, 3))


@pytest.fixture
def world(valkeys: ValkeyCluster) -> Iterator[World]:
    """What the classes of the contract below are held against: partitions in a cluster."""
    world = World(valkeys.url, COUNT)
    yield world
    world.close()


@pytest.fixture(params=["plain", "cluster"])
def divided(request: pytest.FixtureRequest) -> Iterator[World]:
    """Partitions on one server, and in a cluster."""
    server: Valkey | ValkeyCluster = request.getfixturevalue("valkey" if request.param == "plain" else "valkeys")
    world = World(server.url, COUNT)
    yield world
    world.close()


class TestPublish(contract.TestPublish):
    def test_several_rooms_in_one_publish(self, world: World) -> None:
        """One id and one receipt; each partition's record has the rooms that are there."""
        broker = world.open().broker
        broker.publish([draft(B), draft(B)])
        (receipt,) = broker.publish([draft(A, B, A)])
        assert [(place.room, place.seq) for place in receipt.places] == [(A, 1), (B, 3)]
        for place in receipt.places:
            newest = contract.read(broker, place.room).publications[-1]
            assert (newest.id, newest.places, newest.flags) == (receipt.id, (place,), SPREAD)


class TestLive(contract.TestLive):
    def test_what_is_published_after_subscribe_is_heard_in_order(self, world: World) -> None:
        """Of each room."""
        listener = world.listen()
        broker = listener.backend.broker
        broker.subscribe([A, B])
        broker.publish([draft(A), draft(B), draft(A, B), draft(A)])
        eventually(lambda: len(listener.records) == 5)
        assert (listener.seqs(A), listener.seqs(B)) == ([1, 2, 3], [1, 2])


TestIdempotency = contract.TestIdempotency
TestRetry = contract.TestRetry
TestTrim = contract.TestTrim
TestHistory = contract.TestHistory
TestHeads = contract.TestHeads
TestSessions = contract.TestSessions
TestCluster = contract.TestCluster


# What the other stores promise, in the cluster's first partition.
for _module in (test_critical_contract, test_redis_presence, test_redis_revocations, test_redis_api_keys):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and list(inspect.signature(_test).parameters) == ["world"]:
            globals()[f"{_name}_in_a_cluster"] = _test


class TestDivided:
    def test_every_partition_hears_its_rooms_and_the_first_the_rest(self, divided: World) -> None:
        listener, other = divided.listen(), divided.open()
        rooms = [room_in("agent:l", number, COUNT) for number in range(COUNT)]
        listener.backend.broker.subscribe(rooms)
        other.broker.publish([draft(room) for room in rooms for _ in range(5)] + [draft(*rooms)])
        eventually(lambda: len(listener.records) == 6 * COUNT)
        for room in rooms:
            assert listener.seqs(room) == [1, 2, 3, 4, 5, 6]
        other.bus.publish(b"stock")
        other.cluster.send("w1", b"hello")
        eventually(lambda: listener.bus and listener.control)
        assert (listener.bus, listener.control) == ([b"stock"], [b"hello"])

    def test_watchers_are_counted_where_the_room_is(self, divided: World) -> None:
        listener, other = divided.listen(), divided.open()
        listener.backend.cluster.beat("w1", {}, 5.0)
        listener.backend.broker.subscribe([A, B])
        listener.backend.presence.sync("w1", {A: 7}, 5.0, anew=True)
        seen = [other.presence.watchers(room) for room in (A, B, C)]
        assert seen == [Watching(7, 1), Watching(1, 1), Watching(0, 0)]

    def test_each_has_a_backend_and_ping_asks_all(self, divided: World) -> None:
        backend = divided.open()
        assert len(backend.parts) == COUNT
        assert backend.ping() < 5.0
        assert {backend.parts[1].broker.heads([A])[A], backend.parts[2].broker.heads([A])[A]} == {Position("", 0)}
        backend.broker.publish([draft(A)])
        assert backend.parts[1].broker.heads([A])[A].seq == 1
        assert backend.parts[2].broker.heads([A])[A].seq == 0

    def test_reconnect_is_a_gap_of_each(self, divided: World) -> None:
        listener = divided.listen()
        listener.backend.broker.subscribe([room_in("agent:r", number, COUNT) for number in range(COUNT)])
        listener.backend.reconnect()
        eventually(lambda: listener.gaps == COUNT)

    def test_hasty_is_the_same_broker(self, divided: World) -> None:
        backend = divided.open()
        (receipt,) = backend.hasty(0.5).publish([draft(A, B)])
        assert backend.broker.heads([A, B]) == receipt.positions

    @pytest.mark.parametrize("count", [1, 3])
    def test_another_number_of_partitions_is_refused(self, divided: World, count: int) -> None:
        divided.open().ping()
        other = World(divided.url, count)
        other.prefix = divided.prefix
        with pytest.raises(PartitionMismatch, match=f"{COUNT} partitions, .* WSAPP_PARTITIONS={count}: set"):
            other.open().ping()
        other.close()


def test_data_of_a_server_without_partitions_are_not_taken_for_divided_ones(valkey: Valkey) -> None:
    whole, parted = World(valkey.url), World(valkey.url, COUNT)
    parted.prefix = whole.prefix
    whole.open().broker.publish([draft(A)])
    with pytest.raises(PartitionMismatch, match="1 partitions"):
        parted.open().broker.publish([draft(B), draft("x")])
    whole.close()
    parted.close()


class Cut:
    """A way to a real broker that can be cut."""

    def __init__(self) -> None:
        self.inner, self.away = MemoryBackend().broker, False

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        if self.away:
            raise BrokerUnavailable("away")
        return self.inner.publish(drafts)

    def __getattr__(self, name: str) -> Callable[..., object]:
        if self.away:
            raise BrokerUnavailable("away")
        found: Callable[..., object] = getattr(self.inner, name)
        return found


@pytest.fixture
def lines() -> list[Cut]:
    return [Cut() for _ in range(COUNT)]


class TestPartlyAway:
    def test_what_is_raised_names_the_partition(self, lines: list[Cut]) -> None:
        broker = PartitionedBroker(lines)  # type: ignore[arg-type]
        lines[2].away = True
        with pytest.raises(BrokerUnavailable) as caught:
            broker.publish([draft(A), draft(B), draft(C)])
        assert caught.value.partition == 2
        assert [broker.publish([draft(room)])[0].places[0].seq for room in (A, C)] == [2, 2]

    def test_an_event_that_came_to_its_home_alone_is_completed_under_its_id(self, lines: list[Cut]) -> None:
        broker = PartitionedBroker(lines)  # type: ignore[arg-type]
        lines[2].away = True
        with pytest.raises(BrokerUnavailable):
            broker.publish([draft(A, B, key="k")])
        (at_home,) = lines[1].inner.read([HistoryQuery(A)])[0].publications
        lines[2].away = False
        (receipt,) = broker.publish([draft(A, B, key="k")])
        (elsewhere,) = lines[2].inner.read([HistoryQuery(B)])[0].publications
        assert receipt.id == at_home.id == elsewhere.id
        assert [place.room for place in receipt.places] == [A, B]
        assert not receipt.duplicate, "it was not known everywhere"
        assert broker.publish([draft(A, B, key="k")]) == [Receipt(receipt.id, receipt.places, duplicate=True)]

    @pytest.mark.parametrize("away", [1, 2])
    def test_a_retry_publishes_only_what_is_missing(self, lines: list[Cut], away: int) -> None:
        """However much is recorded where it arrived, also more than a history keeps."""
        broker = PartitionedBroker(lines)  # type: ignore[arg-type]
        lines[away].away = True
        sent = [draft(A, B), draft(A, C), draft(C)]
        with pytest.raises(BrokerUnavailable):
            broker.publish(sent)
        arrived = A if away == 2 else B
        broker.publish([draft(arrived) for _ in range(10_500)])
        lines[away].away = False
        receipts = broker.publish([replace(one, retry=True) for one in sent])
        assert [receipt.id for receipt in receipts] == [one.id for one in sent]
        assert [tuple(place.room for place in receipt.places) for receipt in receipts] == [(A, B), (A, C), (C,)]
        assert receipts[0].positions[arrived].seq == 1
        heads = {room: position.seq for room, position in broker.heads([A, B, C]).items()}
        assert heads == {A: 2, B: 1, C: 2} | {arrived: 10_502 if away == 2 else 10_501}

    @pytest.mark.parametrize("seed", range(5))
    def test_no_room_sees_another_order(self, lines: list[Cut], seed: int) -> None:
        chance = random.Random(seed)
        broker = PartitionedBroker(lines)  # type: ignore[arg-type]
        rooms = [f"agent:{number}" for number in range(chance.choice([4, 12]))]
        sent = [draft(*chance.sample(rooms, chance.choice([1, 1, 2, 3])), event=str(number),
                      key=chance.choice(["", "", f"k{number}"])) for number in range(60)]
        broker.publish(sent)
        for room in rooms:
            recorded = [one.event for one in broker.read([HistoryQuery(room)])[0].publications]
            assert recorded == [one.event for one in sent if room in one.rooms]

    def test_a_wrong_draft_publishes_nothing(self, lines: list[Cut]) -> None:
        broker = PartitionedBroker(lines)  # type: ignore[arg-type]
        bad = draft(B)
        object.__setattr__(bad, "rooms", ("",))
        with pytest.raises(ValueError, match="room"):
            broker.publish([draft(A), bad])
        assert lines[1].inner.read([HistoryQuery(A)])[0].publications == ()

    def test_nothing_asked_nothing_answered(self, lines: list[Cut]) -> None:
        broker = PartitionedBroker(lines)  # type: ignore[arg-type]
        assert (broker.publish([]), broker.read([]), broker.heads([])) == ([], [], {})
        broker.subscribe([])
        broker.unsubscribe([])
