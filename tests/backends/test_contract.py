"""What core/ports.py promises, held against both families."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import pytest

from tests.backends.conftest import World, draft, eventually
from wsapp.core.events import Lane, Placed, Position, Publication
from wsapp.core.ports import Broker, HistoryPage, HistoryQuery, Limits, Receipt, SavedSession

A, B = "agent:a", "task:b"


def read(broker: Broker, room: str = A, since: int | None = None, limit: int = 1000,
         backwards: bool = False) -> HistoryPage:
    return broker.read([HistoryQuery(room, since, limit, backwards)])[0]


def seqs(page: HistoryPage) -> list[int]:
    return [publication.seq(page.room) for publication in page.publications]


class TestPublish:
    def test_seq_is_contiguous_from_one_and_id_grows(self, world: World) -> None:
        broker = world.open().broker
        receipts = broker.publish([draft() for _ in range(5)]) + broker.publish([draft()])
        assert [receipt.places[0].seq for receipt in receipts] == [1, 2, 3, 4, 5, 6]
        assert len({receipt.places[0].epoch for receipt in receipts}) == 1
        ids = [receipt.id for receipt in receipts]
        assert ids == sorted(set(ids))
        assert {len(id) for id in ids} == {24}
        assert {receipt.status for receipt in receipts} == {"accepted"}

    def test_id_grows_over_all_rooms(self, world: World) -> None:
        broker = world.open().broker
        ids = [receipt.id for receipt in broker.publish([draft(f"agent:{i % 7}") for i in range(50)])]
        assert ids == sorted(set(ids))

    def test_several_rooms_in_one_publish(self, world: World) -> None:
        broker = world.open().broker
        broker.publish([draft(B), draft(B)])
        (receipt,) = broker.publish([draft(A, B, A)])
        assert [(place.room, place.seq) for place in receipt.places] == [(A, 1), (B, 3)]
        for room in (A, B):
            newest = read(broker, room).publications[-1]
            assert (newest.id, newest.places) == (receipt.id, receipt.places)
        assert receipt.positions[B] == read(broker, B).head

    def test_nothing_in_nothing_out(self, world: World) -> None:
        assert world.open().broker.publish([]) == []
        assert world.open().broker.read([]) == []

    def test_a_record_comes_back_as_it_went_in(self, world: World) -> None:
        broker = world.open().broker
        body = '{"thought":"grüße\\t\\n\U0001f600","n":[1,2]}'.encode()
        sent = draft(body=body, event="ünïcode")
        (receipt,) = broker.publish([sent])
        (got,) = read(broker).publications
        assert (got.id, got.body, got.event, got.lane, got.ts) == (receipt.id, body, "ünïcode", Lane.LOG, 1)
        assert got.record() == Publication(receipt.id, 1, 5, "", Lane.LOG, "", "ünïcode", receipt.places, body).record()

    @pytest.mark.parametrize("rooms", [(), ("",), ("a\tb",), ("a\nb",)])
    def test_rooms_that_would_break_the_header_are_refused(self, world: World, rooms: tuple[str, ...]) -> None:
        bad = draft()
        object.__setattr__(bad, "rooms", rooms)
        with pytest.raises(ValueError, match="room"):
            world.open().broker.publish([draft(), bad])
        assert read(world.open().broker).head.seq == 0

    def test_an_event_name_that_would_break_the_header_is_refused(self, world: World) -> None:
        with pytest.raises(ValueError, match="tab"):
            world.open().broker.publish([draft(event="a\tb")])


class TestIdempotency:
    def test_a_key_is_published_once(self, world: World) -> None:
        broker = world.open().broker
        (first,) = broker.publish([draft(A, B, key="k")])
        (again, other) = broker.publish([draft(A, B, key="k"), draft(A, key="k2")])
        assert not first.duplicate
        assert again == Receipt(first.id, first.places, duplicate=True)
        assert other.places[0].seq == 2
        assert len(read(broker).publications) == 2

    def test_twice_in_one_call(self, world: World) -> None:
        first, again = world.open().broker.publish([draft(key="k"), draft(key="k")])
        assert (again.id, again.duplicate) == (first.id, True)

    def test_a_long_key_is_a_key(self, world: World) -> None:
        first, again, other = world.open().broker.publish(
            [draft(key="k" * 500), draft(key="k" * 500), draft(key="k" * 499)])
        assert (again.duplicate, other.duplicate) == (True, False)
        assert first.id != other.id

    def test_a_key_is_forgotten_after_its_time(self, world: World) -> None:
        broker = world.open(Limits(result_ttl=0.1)).broker
        broker.publish([draft(key="k")])
        world.pass_time(0.15)
        assert broker.publish([draft(key="k")])[0].duplicate is False

    def test_concurrent_publishers_of_one_key(self, world: World) -> None:
        broker = world.open().broker
        receipts: list[Receipt] = []
        threads = [threading.Thread(target=lambda: receipts.extend(broker.publish([draft(key="k")])))
                   for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({receipt.id for receipt in receipts}) == 1
        assert [receipt.duplicate for receipt in receipts].count(False) == 1
        assert read(broker).head.seq == 1

    def test_concurrent_publishers_leave_no_hole(self, world: World) -> None:
        broker = world.open().broker
        receipts: list[Receipt] = []

        def run() -> None:
            for _ in range(20):
                receipts.extend(broker.publish([draft(A), draft(A, B)]))

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(receipt.positions[A].seq for receipt in receipts) == list(range(1, 241))
        page = read(broker)
        assert seqs(page) == list(range(1, 241))
        assert len({publication.id for publication in page.publications}) == 240


class TestRetry:
    """Recording is idempotent by id: the answer to a publish may be lost, its record not."""

    def test_what_is_recorded_is_not_recorded_again(self, world: World) -> None:
        broker = world.open().broker
        sent = [draft(A), draft(A, B), draft(B)]
        first = broker.publish(sent)
        broker.publish([draft(A, body=b'"%d"' % number) for number in range(1200)])
        again = broker.publish([replace(one, retry=True) for one in sent])
        assert again == [replace(receipt, duplicate=True) for receipt in first]
        assert (read(broker, A, limit=0).head.seq, read(broker, B, limit=0).head.seq) == (1202, 2)

    def test_what_is_not_recorded_is(self, world: World) -> None:
        broker = world.open().broker
        broker.publish([draft(A) for _ in range(3)])
        lost = replace(draft(A, B), retry=True)
        (receipt,) = broker.publish([lost])
        assert (receipt.id, receipt.duplicate) == (lost.id, False)
        assert [(place.room, place.seq) for place in receipt.places] == [(A, 4), (B, 1)]
        assert broker.publish([lost]) == [replace(receipt, duplicate=True)]

    def test_one_room_that_keeps_it_is_enough(self, world: World) -> None:
        broker = world.open(Limits(history_size=3)).broker
        both = draft(A, B)
        (first,) = broker.publish([both])
        broker.publish([draft(A) for _ in range(9)])
        found = {place.room: place for place in broker.publish([replace(both, retry=True)])[0].places}
        assert found[B] == first.places[1]

    def test_the_receipt_has_one_id_with_the_record(self, world: World) -> None:
        broker = world.open().broker
        sent = draft(A, B)
        (receipt,) = broker.publish([sent])
        assert {sent.id} == {receipt.id, read(broker, A).publications[0].id, read(broker, B).publications[0].id}

    @pytest.mark.parametrize("id", ["", "a\tb", "0" * 13, "0" * 20 + "\n"])
    def test_an_id_that_would_break_the_header_is_refused(self, world: World, id: str) -> None:
        with pytest.raises(ValueError, match="id"):
            world.open().broker.publish([replace(draft(), id=id)])


class TestTrim:
    def test_by_count(self, world: World) -> None:
        broker = world.open(Limits(history_size=3)).broker
        broker.publish([draft() for _ in range(10)])
        page = read(broker)
        assert (page.head.seq, page.first, seqs(page)) == (10, 8, [8, 9, 10])

    def test_by_bytes(self, world: World) -> None:
        broker = world.open(Limits(history_bytes=2000)).broker
        broker.publish([draft(body=b'"%s"' % (b"x" * 400)) for _ in range(20)])
        page = read(broker)
        kept = sum(len(publication.record()) for publication in page.publications)
        assert 1400 < kept <= 2000
        assert seqs(page) == list(range(page.first, 21))

    def test_bytes_catch_up_within_bounded_work(self, world: World) -> None:
        broker = world.open(Limits(history_bytes=4000)).broker
        broker.publish([draft() for _ in range(40)])
        broker.publish([draft(body=b'"%s"' % (b"x" * 3800))])
        assert read(broker).first <= 10
        broker.publish([draft() for _ in range(6)])
        page = read(broker)
        assert sum(len(publication.record()) for publication in page.publications) <= 4000
        assert seqs(page) == list(range(page.first, 48))

    def test_larger_than_the_whole_history(self, world: World) -> None:
        broker = world.open(Limits(history_bytes=300)).broker
        broker.publish([draft(), draft(body=b'"%s"' % (b"x" * 500))])
        page = read(broker)
        assert (page.head.seq, page.first, seqs(page)) == (2, 3, [])
        broker.publish([draft()])
        page = read(broker)
        assert (page.head.seq, page.first, seqs(page)) == (3, 3, [3])

    def test_by_age_per_entry_in_a_busy_room(self, world: World) -> None:
        broker = world.open(Limits(history_age=0.4)).broker
        broker.publish([draft(), draft(), draft()])
        world.pass_time(0.25)
        broker.publish([draft()])
        world.pass_time(0.25)
        broker.publish([draft()])
        page = read(broker)
        assert (page.head.seq, page.first, seqs(page)) == (5, 4, [4, 5])

    def test_a_quiet_room_ages_out_and_goes_on_counting(self, world: World) -> None:
        broker = world.open(Limits(history_age=0.1)).broker
        (receipt,) = broker.publish([draft()])
        world.pass_time(0.15)
        page = read(broker)
        assert (page.head, page.first, page.publications) == (receipt.positions[A], 2, ())
        (receipt,) = broker.publish([draft()])
        page = read(broker)
        assert (receipt.places[0].seq, page.first, seqs(page)) == (2, 2, [2])
        assert page.head.epoch == receipt.places[0].epoch

    def test_a_forgotten_room_begins_a_new_epoch(self, world: World) -> None:
        broker = world.open(Limits(history_age=0.05, meta_ttl=0.1)).broker
        (old,) = broker.publish([draft()])
        world.pass_time(0.15)
        assert read(broker).head == Position("", 0)
        (new,) = broker.publish([draft()])
        assert new.places[0].seq == 1
        assert new.places[0].epoch != old.places[0].epoch


class TestHistory:
    def test_a_room_without_publications(self, world: World) -> None:
        assert read(world.open().broker) == HistoryPage(A, Position("", 0), 1, ())

    def test_forwards(self, world: World) -> None:
        broker = world.open().broker
        broker.publish([draft() for _ in range(6)])
        assert seqs(read(broker)) == [1, 2, 3, 4, 5, 6]
        assert seqs(read(broker, limit=2)) == [1, 2]
        assert seqs(read(broker, since=2, limit=3)) == [3, 4, 5]
        assert seqs(read(broker, since=0)) == [1, 2, 3, 4, 5, 6]
        assert seqs(read(broker, since=6)) == []
        assert seqs(read(broker, since=99)) == []
        assert seqs(read(broker, limit=0)) == []
        assert read(broker, limit=0).head.seq == 6

    def test_backwards(self, world: World) -> None:
        broker = world.open().broker
        broker.publish([draft() for _ in range(6)])
        assert seqs(read(broker, backwards=True)) == [6, 5, 4, 3, 2, 1]
        assert seqs(read(broker, limit=2, backwards=True)) == [6, 5]
        assert seqs(read(broker, since=4, limit=2, backwards=True)) == [3, 2]
        assert seqs(read(broker, since=1, backwards=True)) == []
        assert seqs(read(broker, since=99, limit=1, backwards=True)) == [6]

    def test_paged_while_it_is_trimmed(self, world: World) -> None:
        broker = world.open(Limits(history_size=10)).broker
        broker.publish([draft() for _ in range(10)])
        page = read(broker, limit=4)
        broker.publish([draft() for _ in range(7)])
        following = read(broker, since=seqs(page)[-1], limit=4)
        assert (seqs(following), following.first, following.head.seq) == ([8, 9, 10, 11], 8, 17)

    def test_several_rooms_in_one_call(self, world: World) -> None:
        broker = world.open().broker
        broker.publish([draft(A), draft(B), draft(B)])
        pages = broker.read([HistoryQuery(B), HistoryQuery("none"), HistoryQuery(A)])
        assert [(page.room, seqs(page)) for page in pages] == [(B, [1, 2]), ("none", []), (A, [1])]


class TestHeads:
    def test_where_rooms_stand(self, world: World) -> None:
        broker = world.open().broker
        assert broker.heads([]) == {}
        receipts = broker.publish([draft(A), draft(A, B), draft(A)])
        heads = broker.heads([A, B, "project:none"])
        assert heads[A] == receipts[2].positions[A] == read(broker).head
        assert heads[B] == receipts[1].positions[B]
        assert heads["project:none"] == Position("", 0)

    def test_they_outlive_the_history(self, world: World) -> None:
        broker = world.open(Limits(history_size=1, history_age=0.2)).broker
        receipts = broker.publish([draft() for _ in range(5)])
        world.pass_time(0.3)
        assert broker.heads([A]) == {A: receipts[-1].positions[A]}


class TestLive:
    def test_what_is_published_after_subscribe_is_heard_in_order(self, world: World) -> None:
        listener = world.listen()
        broker = listener.backend.broker
        broker.subscribe([A, B])
        receipts = broker.publish([draft(A), draft(B), draft(A, B), draft(A)])
        eventually(lambda: len(listener.records) == 5)
        assert listener.seqs(A) == [1, 2, 3]
        assert listener.seqs(B) == [1, 2]
        assert list(dict.fromkeys(p.id for _, p in listener.records)) == [receipt.id for receipt in receipts]
        assert listener.records[0][1].places == (Placed(A, 1, receipts[0].places[0].epoch),)
        assert listener.gaps == 0

    def test_a_duplicate_is_not_heard(self, world: World) -> None:
        listener = world.listen()
        broker = listener.backend.broker
        broker.subscribe([A])
        broker.publish([draft(key="k"), draft(key="k"), draft()])
        eventually(lambda: listener.seqs(A) == [1, 2])

    def test_unsubscribe(self, world: World) -> None:
        listener = world.listen()
        broker = listener.backend.broker
        broker.subscribe([A, B])
        broker.unsubscribe([A])
        broker.unsubscribe(["never:subscribed"])
        broker.subscribe(["project:c"])  # confirmed after the UNSUBSCRIBE was obeyed
        broker.publish([draft(A), draft(B)])
        eventually(lambda: listener.seqs(B) == [1])
        assert listener.seqs(A) == []

    def test_left_and_joined_again_at_once(self, world: World) -> None:
        listener = world.listen()
        broker = listener.backend.broker
        for expected in range(1, 30):
            broker.subscribe([A])
            broker.publish([draft()])
            eventually(partial(lambda n: listener.seqs(A)[-1:] == [n], expected))
            broker.unsubscribe([A])
        assert listener.seqs(A) == list(range(1, 30))

    def test_subscribing_twice_hears_once(self, world: World) -> None:
        listener = world.listen()
        broker = listener.backend.broker
        broker.subscribe([A])
        broker.subscribe([A])
        broker.publish([draft(), draft()])
        eventually(lambda: listener.seqs(A) == [1, 2])

    def test_a_failing_callback_does_not_end_the_listening(self, world: World) -> None:
        listener = world.listen()
        listener.failures = 1
        broker = listener.backend.broker
        broker.subscribe([A])
        broker.publish([draft(), draft()])
        eventually(lambda: listener.seqs(A) == [2])
        assert listener.failures == 0

    def test_the_bus(self, world: World) -> None:
        listener = world.listen()
        listener.backend.broker.subscribe([A])
        listener.backend.bus.publish(b"one")
        listener.backend.bus.publish(b"two")
        eventually(lambda: listener.bus == [b"one", b"two"])


class TestSessions:
    def session(self, owner: str = "w1:s1", **changes: object) -> SavedSession:
        fields: dict[str, object] = {"positions": {A: Position("e-1", 7), "täsk:b": Position("e-2", 0)},
                                     "metadata": {"theme": "dark", "n": [1, None]}, **changes}
        return SavedSession("sess", "user", owner, **fields)  # type: ignore[arg-type]

    def test_take_returns_what_was_saved(self, world: World) -> None:
        sessions = world.open().sessions
        assert sessions.save([]) == []
        assert sessions.save([self.session()]) == [True]
        assert sessions.take("sess", "w1:s2") == self.session()
        assert sessions.take("sess", "w1:s3") == self.session("w1:s2")
        assert sessions.take("other", "w1:s2") is None

    def test_what_few_sessions_have_is_kept_and_forgotten_again(self, world: World) -> None:
        sessions = world.open().sessions
        for changes in ({"watching": (A, B)}, {"watching": (A,), "host_state": ("rooms",)}, {"host_state": ("x", "y")},
                        {}):
            sessions.save([self.session(**changes)])
            assert sessions.take("sess", "w1:s1") == self.session(**changes)

    def test_only_the_owner_saves_and_drops(self, world: World) -> None:
        sessions = world.open().sessions
        sessions.save([self.session()])
        sessions.take("sess", "w2:s2")
        late = SavedSession("fresh", "user", "w1:s1", {})
        assert sessions.save([self.session(metadata={"stale": True}), late]) == [False, True]
        assert sessions.drop("sess", "w1:s1") is False
        assert sessions.save([self.session("w2:s2", metadata={"new": 1})]) == [True]
        assert sessions.take("sess", "w2:s3") == self.session("w2:s2", metadata={"new": 1})
        assert sessions.drop("sess", "w2:s3") is True
        assert sessions.drop("sess", "w2:s3") is False
        assert sessions.take("sess", "w2:s4") is None

    def test_the_previous_owner_on_another_worker_is_told(self, world: World) -> None:
        listener = world.listen(boot="w1")
        listener.backend.broker.subscribe([A])
        sessions = world.open().sessions
        sessions.save([self.session("w1:s1")])
        sessions.take("sess", "w1:s2")
        sessions.take("sess", "w2:s:3")
        sessions.take("sess", "w1:s4")
        world.open().cluster.send("w1", b"done")
        eventually(lambda: listener.control[-1:] == [b"done"])
        assert listener.control == [b"fenced s2", b"done"]

    def test_a_session_lapses(self, world: World) -> None:
        sessions = world.open(Limits(session_ttl=0.3)).sessions
        sessions.save([self.session()])
        world.pass_time(0.2)
        sessions.save([self.session()])
        world.pass_time(0.2)
        assert sessions.take("sess", "w2:s2") is not None
        world.pass_time(0.4)
        assert sessions.take("sess", "w2:s3") is None
        assert sessions.save([self.session("w3:s9")]) == [True]

    def test_an_owner_has_a_boot_id(self, world: World) -> None:
        sessions = world.open().sessions
        with pytest.raises(ValueError, match="boot"):
            sessions.save([self.session("nonsense")])
        with pytest.raises(ValueError, match="boot"):
            sessions.take("sess", "nonsense")


class TestCluster:
    def test_leases(self, world: World) -> None:
        cluster = world.open().cluster
        assert cluster.workers() == {}
        cluster.beat("w1", {"pid": 1, "rooms": ["a"]}, 30)
        cluster.beat("w2", {"pid": 2}, 0.1)
        assert cluster.workers() == {"w1": {"pid": 1, "rooms": ["a"]}, "w2": {"pid": 2}}
        world.pass_time(0.15)
        assert list(cluster.workers()) == ["w1"]
        cluster.beat("w2", {"pid": 3}, 30)
        assert cluster.workers()["w2"] == {"pid": 3}
        cluster.leave("w1")
        assert list(cluster.workers()) == ["w2"]

    def test_a_message_to_nobody_is_lost(self, world: World) -> None:
        listener = world.listen(boot="w1")
        listener.backend.broker.subscribe([A])
        listener.backend.cluster.send("gone", b"x")
        listener.backend.cluster.send("w1", b"y")
        eventually(lambda: listener.control == [b"y"])


class TestBackend:
    def test_ping_and_close(self, world: World) -> None:
        listener = world.listen()
        assert listener.backend.ping() >= 0
        listener.backend.close()
        listener.backend.close()

    def test_reconnect_goes_on(self, world: World) -> None:
        listener = world.listen()
        listener.backend.reconnect()  # perhaps before there is a connection
        listener.backend.broker.subscribe([A])
        listener.backend.reconnect()
        if listener.backend.shared:
            eventually(lambda: listener.gaps >= 1)  # perhaps of the first time only
        eventually(lambda: listener.backend.broker.publish([draft()]) and listener.seqs(A))

    def test_shared(self, world: World) -> None:
        assert world.open().shared is (world.url is not None)

    def test_two_backends_see_each_other(self, shared_world: World) -> None:
        one, two = shared_world.listen(boot="w1"), shared_world.listen(boot="w2")
        for listener in (one, two):
            listener.backend.broker.subscribe([A])
        (first,) = one.backend.broker.publish([draft(key="k")])
        (second,) = two.backend.broker.publish([draft()])
        (again,) = two.backend.broker.publish([draft(key="k")])
        assert (second.places[0].seq, second.places[0].epoch) == (2, first.places[0].epoch)
        assert (again.id, again.duplicate) == (first.id, True)
        for listener in (one, two):
            eventually(partial(lambda heard: heard.seqs(A) == [1, 2], listener))
        assert seqs(read(two.backend.broker)) == [1, 2]
        one.backend.cluster.beat("w1", {"n": 1}, 30)
        assert two.backend.cluster.workers() == {"w1": {"n": 1}}
        one.backend.cluster.send("w2", b"hello")
        eventually(lambda: two.control == [b"hello"])
        assert one.control == []
