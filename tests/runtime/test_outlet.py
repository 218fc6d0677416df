"""Publishing while the broker is away: in order, nothing twice, bounded, and told."""

from __future__ import annotations

from collections.abc import Sequence

import gevent
import pytest

from tests.runtime.world import eventually
from wsapp.backends.memory import MemoryBackend
from wsapp.core.events import Draft, Publication, parse_record
from wsapp.core.link import LinkState
from wsapp.core.ports import HistoryQuery, Receipt
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime import outlet as module
from wsapp.runtime.link import Link
from wsapp.runtime.outlet import Outlet, OutletLimits


class Wire:
    """A way to the real broker that can be cut: before it (`away`) or on the way back (`deaf`)."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.away = self.deaf = False
        self.pause = 0.0
        self.sent: list[list[Draft]] = []

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        if self.away:
            raise BrokerUnavailable("away")
        receipts = self.backend.broker.publish(drafts)
        self.sent.append(list(drafts))
        gevent.sleep(self.pause)
        if self.deaf:
            raise BrokerUnavailable("no answer")
        return receipts

    def ping(self) -> float:
        if self.away or self.deaf:
            raise BrokerUnavailable("away")
        return 0.0

    def kept(self) -> list[str]:
        page = self.backend.broker.read([HistoryQuery("agent:a")])[0]
        return [publication.body.decode() for publication in page.publications]

    def ids(self) -> list[str]:
        return [one.id for one in self.backend.broker.read([HistoryQuery("agent:a")])[0].publications]


class Office:
    def __init__(self, limits: OutletLimits | None = None) -> None:
        self.wire, self.metrics, self.now = Wire(), Metrics(), 0.0
        self.served: list[Publication] = []
        self.modes: list[str] = []
        self.link = Link(lambda state: self.modes.append(str(state)))
        self.outlet = Outlet(self.wire.publish, self.wire, self.link, self.metrics,  # type: ignore[arg-type]
                             self.served.append, limits, lambda: self.now)

    def say(self, *bodies: object) -> list[Receipt]:
        return [self.outlet.publish([Draft("agent-thought", ("agent:a",), str(body).encode(), 1)])[0]
                for body in bodies]

    def run(self) -> None:
        greenlet = gevent.spawn(self.outlet.run)
        eventually(lambda: self.link.state is LinkState.UP)
        greenlet.kill()


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.002)
    return Office()


def statuses(receipts: list[Receipt]) -> list[str]:
    return [receipt.status for receipt in receipts]


def test_normally_it_is_one_round_trip_and_nothing_is_served_unrecorded(office: Office) -> None:
    [receipt] = office.say(1)
    assert receipt.status == "accepted"
    assert receipt.places[0].seq == 1
    assert (office.served, office.modes, len(office.wire.sent)) == ([], [], 1)
    assert (office.wire.sent[0][0].key, office.wire.sent[0][0].retry) == ("", False), "it costs no look"


def test_a_key_of_the_caller_is_kept(office: Office) -> None:
    draft = Draft("agent-thought", ("agent:a",), b"1", 1, key="mine")
    first, second = office.outlet.publish([draft])[0], office.outlet.publish([draft])[0]
    assert (first.duplicate, second.duplicate, first.id) == (False, True, second.id)


def test_away_local_watchers_are_served_at_once_and_the_order_holds(office: Office) -> None:
    office.say(1)
    office.wire.away = True
    receipts = office.say(2, 3)
    assert statuses(receipts) == ["queued", "queued"]
    assert [publication.body for publication in office.served] == [b"2", b"3"]
    office.wire.away = False
    assert statuses(office.say(4)) == ["queued"]  # it must not overtake
    assert office.outlet.waiting() == 3
    office.run()
    assert statuses(office.say(5)) == ["accepted"]
    assert office.wire.kept() == ["1", "2", "3", "4", "5"]


def test_ids_are_those_that_local_watchers_and_the_receipts_saw(office: Office) -> None:
    office.wire.away = True
    receipts = office.say(1, 2, 3)
    office.wire.away = False
    office.run()
    ids = [receipt.id for receipt in receipts]
    assert ids == [publication.id for publication in office.served] == office.wire.ids() == sorted(set(ids))


def test_what_is_served_unrecorded_has_no_number(office: Office) -> None:
    office.wire.away = True
    office.outlet.publish([Draft("agent-thought", ("agent:a", "task:t"), b"{}", 1, flags="is")])
    [publication] = office.served
    assert [(place.room, place.seq) for place in publication.places] == [("agent:a", 0), ("task:t", 0)]
    assert publication.data_json("agent:a") == b'{"id":"%s"}' % publication.id.encode()


def test_a_lost_answer_doubles_nothing(office: Office) -> None:
    office.say(1)
    office.wire.deaf = True
    office.say(2, 3)
    greenlet = gevent.spawn(office.outlet.run)
    eventually(lambda: len(office.wire.sent) > 4)  # several attempts whose answers are lost
    office.wire.deaf = False
    eventually(lambda: office.link.state is LinkState.UP)
    greenlet.kill()
    office.say(4)
    assert office.wire.kept() == ["1", "2", "3", "4"]


def test_a_long_outbox_goes_in_batches_in_order(office: Office) -> None:
    office.wire.away = True
    office.say(*range(250))
    office.wire.away = False
    office.run()
    assert [len(batch) for batch in office.wire.sent] == [100, 100, 50]
    assert office.wire.kept() == [str(number) for number in range(250)]
    assert office.modes == ["degraded", "catching_up", "normal"]


def test_each_mode_is_told_once(office: Office) -> None:
    office.wire.away = True
    office.say(1, 2, 3)
    office.link.lost(BrokerUnavailable("again"))
    greenlet = gevent.spawn(office.outlet.run)
    gevent.sleep(0.02)
    office.wire.away = False
    eventually(lambda: office.link.state is LinkState.UP)
    assert office.modes == ["degraded", "normal"]
    office.wire.away = True
    office.say(4)
    office.wire.away = False
    eventually(lambda: office.link.state is LinkState.UP)
    greenlet.kill()
    assert office.modes == ["degraded", "normal"] * 2


def test_lost_without_a_publication_ends_with_a_ping(office: Office) -> None:
    office.link.lost(BrokerUnavailable("the lease"))
    assert office.link.state is LinkState.DOWN
    office.run()
    assert office.wire.sent == []


def test_it_is_bounded_in_items_and_says_so() -> None:
    office = Office(OutletLimits(items=2))
    office.wire.away = True
    receipts = office.say(1, 2, 3)
    assert statuses(receipts) == ["queued", "queued", "local_only"]
    assert len(office.served) == 3
    assert (office.outlet.waiting(), office.outlet.refused) == (2, 1)
    office.wire.away = False
    office.run()
    assert office.wire.kept() == ["1", "2"]


def test_it_is_bounded_in_bytes_and_frees_them() -> None:
    office = Office(OutletLimits(bytes=10))
    office.wire.away = True
    assert statuses(office.say("12345", "12345", "1")) == ["queued", "queued", "local_only"]
    office.wire.away = False
    office.run()
    office.wire.away = True
    assert statuses(office.say("12345", "12345")) == ["queued", "queued"]


def test_what_is_too_old_is_given_up(office: Office) -> None:
    office.wire.away = True
    office.say("old")
    office.now = 601.0
    office.say("young")
    office.wire.away = False
    office.run()
    assert office.wire.kept() == ["young"]
    assert office.outlet.refused == 1


def test_a_flush_beside_the_loop_loses_nothing(office: Office) -> None:
    """The worker drains while its loop is in the middle of an attempt."""
    office.wire.away = True
    office.say(*range(250))
    office.wire.away, office.wire.pause = False, 0.002
    loop = gevent.spawn(office.outlet.run)
    gevent.sleep(0.001)
    assert office.outlet.flush(1.0) == 0
    eventually(lambda: office.link.state is LinkState.UP)
    loop.kill()
    assert office.wire.kept() == [str(number) for number in range(250)]


def test_a_flush_tells_what_is_left_at_its_deadline(office: Office) -> None:
    office.wire.away = True
    office.say(1, 2)
    greenlet = gevent.spawn(office.outlet.flush, 1.0)
    gevent.sleep(0.005)
    office.now = 2.0
    assert greenlet.get(timeout=5) == 2


def test_the_counters_follow(office: Office) -> None:
    office.say(1)
    office.wire.away = True
    office.say(2)
    assert (office.metrics.publishes, office.metrics.publish_failures) == (2, 1)


def test_a_record_under_a_given_id_is_the_one_that_was_served(office: Office) -> None:
    heard: list[Publication] = []
    office.wire.backend.start("w", lambda _room, record: heard.append(parse_record(record)), lambda: None,
                              lambda _message: None, lambda _message: None)
    office.wire.backend.broker.subscribe(["agent:a"])
    office.wire.away = True
    office.say(1)
    office.wire.away = False
    office.run()
    assert [one.id for one in heard] == [one.id for one in office.served]


def test_receipt_wire_and_history_have_one_id_whatever_was_lost(office: Office) -> None:
    office.wire.deaf = True
    receipts = office.say(1, 2)
    office.wire.deaf, office.wire.away = False, True
    receipts += office.say(3)
    office.wire.away = False
    office.run()
    assert [receipt.id for receipt in receipts] == [one.id for one in office.served] == office.wire.ids()
    assert office.wire.kept() == ["1", "2", "3"]


def test_only_what_was_sent_before_is_a_retry(office: Office) -> None:
    office.wire.deaf = True
    office.say(1, 2)
    assert not office.outlet._step(), "sent, and no answer"
    office.wire.deaf = False
    office.say(3)
    assert office.outlet._step()
    retries = [[(draft.body, draft.retry) for draft in sent] for sent in office.wire.sent]
    assert retries == [[(b"1", False)], [(b"1", True), (b"2", False)], [(b"1", True), (b"2", True), (b"3", False)]]


def test_a_flush_beside_the_loop_doubles_nothing(office: Office) -> None:
    office.wire.away = True
    office.say(*range(5))
    office.wire.away, office.wire.pause = False, 0.01
    running = gevent.spawn(office.outlet.run)
    gevent.sleep(0.005)
    assert office.outlet.flush(office.now + 5) == 0
    running.kill()
    assert office.wire.kept() == [str(number) for number in range(5)]
    assert office.outlet._bytes == 0
