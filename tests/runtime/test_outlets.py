"""One outbox per partition: what is away waits, what is there goes on, and the worst is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gevent
import pytest

from tests.runtime.world import eventually
from wsapp.backends.memory import MemoryBackend
from wsapp.backends.partitions import PartitionedBroker
from wsapp.core.events import Draft, Publication
from wsapp.core.link import LinkState
from wsapp.core.partitions import room_in
from wsapp.core.ports import HistoryQuery, Receipt
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime.link import Links
from wsapp.runtime.outlets import Outlets

COUNT = 3
A, B, C = (room_in("agent:x", number, COUNT) for number in range(COUNT))


class Part:
    """A partition that can be away."""

    def __init__(self) -> None:
        self.backend, self.away = MemoryBackend(), False

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        self.ping()
        return self.backend.broker.publish(drafts)

    def ping(self) -> float:
        if self.away:
            raise BrokerUnavailable("away")
        return 0.0

    def bodies(self, room: str) -> list[str]:
        return [one.body.decode() for one in self.backend.broker.read([HistoryQuery(room)])[0].publications]


class Office:
    def __init__(self) -> None:
        self.parts = [Part() for _ in range(COUNT)]
        self.served: list[Publication] = []
        self.modes: list[str] = []
        self.links = Links(lambda state: self.modes.append(str(state)), COUNT)
        self.outlets = Outlets(PartitionedBroker(self.parts).publish, self.parts,  # type: ignore[arg-type]
                               self.links, Metrics(), self.served.append)
        self.running = gevent.spawn(self.outlets.run)

    def say(self, body: object, *rooms: str) -> Receipt:
        return self.outlets.publish([Draft("agent-thought", rooms, str(body).encode(), 1)])[0]


@pytest.fixture
def office() -> Iterator[Office]:
    office = Office()
    yield office
    office.running.kill()


def test_all_there(office: Office) -> None:
    drafts = [Draft("e", (room,), b"{}", 1) for room in (A, B, A, C, C)]
    receipts = office.outlets.publish(drafts)
    assert [[place.room for place in receipt.places] for receipt in receipts] == [[A], [B], [A], [C], [C]]
    assert (office.links.state, office.modes, office.links.reason) == (LinkState.UP, [], "")


def test_only_what_is_away_waits(office: Office) -> None:
    office.parts[1].away = True
    assert [office.say(number, room).status for number, room in enumerate((A, B, C, B))] == [
        "accepted", "queued", "accepted", "queued"]
    assert [office.links.is_up(room) for room in (A, B, C)] == [True, False, True]
    assert (office.links.state, office.outlets.waiting()) == (LinkState.DOWN, 2)
    assert office.links.reason == "partition 1: away"
    assert [one.body for one in office.served] == [b"1", b"3"]
    office.parts[1].away = False
    eventually(lambda: office.links.state is LinkState.UP)
    assert office.parts[1].bodies(B) == ["1", "3"]
    assert office.modes == ["degraded", "normal"]


def test_two_away_are_normal_when_both_are_back(office: Office) -> None:
    office.parts[1].away = office.parts[2].away = True
    office.say(1, B)
    office.say(2, C)
    office.parts[1].away = False
    eventually(lambda: office.links.is_up(B))
    assert office.links.state is LinkState.DOWN
    office.parts[2].away = False
    eventually(lambda: office.links.state is LinkState.UP)
    assert office.modes[0] == "degraded"
    assert office.modes[-1] == "normal"


def test_an_event_of_two_waits_in_its_home_and_holds_what_follows_there(office: Office) -> None:
    office.parts[1].away = True
    first = office.say(1, A, B)
    assert (first.status, office.say(2, A).status, office.say(3, C).status) == ("queued", "queued", "accepted")
    office.parts[1].away = False
    eventually(lambda: office.links.state is LinkState.UP)
    assert (office.parts[0].bodies(A), office.parts[1].bodies(B)) == (["1", "2"], ["1"])


def test_what_came_to_one_partition_alone_is_completed_under_its_id(office: Office) -> None:
    office.parts[1].away = True
    receipt = office.say(1, A, B)
    (here,) = office.parts[0].backend.broker.read([HistoryQuery(A)])[0].publications
    assert (receipt.status, here.id, office.served[0].id) == ("queued", receipt.id, receipt.id)
    office.parts[1].away = False
    eventually(lambda: office.links.state is LinkState.UP)
    (there,) = office.parts[1].backend.broker.read([HistoryQuery(B)])[0].publications
    assert there.id == receipt.id
    assert office.parts[0].bodies(A) == ["1"]


def test_lost_elsewhere(office: Office) -> None:
    error = BrokerUnavailable("no answer")
    error.partition = 2
    office.parts[2].away = True
    office.links.lost(error)
    assert [office.links.is_up(room) for room in (A, B, C)] == [True, True, False]


def test_flush_before_the_end(office: Office) -> None:
    for part in office.parts:
        part.away = True
    for room in (A, B, C):
        office.say(1, room)
    office.running.kill()
    office.parts[0].away = office.parts[1].away = False
    assert office.outlets.flush(office.outlets.parts[0]._clock() + 0.3) == 1
    assert (office.parts[1].bodies(B), office.outlets.refused) == (["1"], 0)
