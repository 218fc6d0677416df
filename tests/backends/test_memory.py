"""What only the memory twin promises: delivery in order, in the publishing thread, with a clock that is given."""

from __future__ import annotations

import threading

from tests.backends.conftest import draft
from wsapp.backends.memory import Mailbox, MemoryBackend
from wsapp.core.events import parse_record
from wsapp.core.ports import HistoryQuery, Limits

A, B = "agent:a", "task:b"


def nothing(*_: object) -> None:
    return


def test_delivered_before_publish_returns() -> None:
    backend, heard = MemoryBackend(), []
    backend.start("w1", lambda room, record: heard.append(room), nothing, nothing, nothing)
    backend.broker.subscribe([A])
    backend.broker.publish([draft(A, B)])
    assert heard == [A]


def test_a_callback_that_publishes_is_not_entered_again() -> None:
    backend, heard = MemoryBackend(), []
    inside = 0

    def on_record(room: str, record: bytes) -> None:
        nonlocal inside
        assert inside == 0
        inside += 1
        heard.append((room, parse_record(record).seq(room)))
        if room == A and len(heard) < 5:
            backend.broker.publish([draft(A)])
        inside -= 1

    backend.start("w1", on_record, nothing, nothing, nothing)
    backend.broker.subscribe([A, B])
    backend.broker.publish([draft(A, B)])
    assert heard == [(A, 1), (B, 1), (A, 2), (A, 3), (A, 4)]


def test_threads_deliver_in_publish_order() -> None:
    backend, heard = MemoryBackend(), []
    backend.start("w1", lambda room, record: heard.append(parse_record(record).seq(room)), nothing, nothing, nothing)
    backend.broker.subscribe([A])
    threads = [threading.Thread(target=lambda: [backend.broker.publish([draft()]) for _ in range(200)])
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == list(range(1, 801))


def test_idle_rooms_and_results_do_not_pile_up() -> None:
    now = 0.0
    backend = MemoryBackend(Limits(meta_ttl=10, result_ttl=10), clock=lambda: now)
    backend.broker.publish([draft(f"agent:{i}", key=str(i)) for i in range(100)])
    now = 11.0
    backend.broker.publish([draft()])
    assert (len(backend._broker._rooms), len(backend._broker._results)) == (1, 0)


def test_ids_grow_while_the_clock_stands_or_goes_back() -> None:
    now = 1000.0
    backend = MemoryBackend(clock=lambda: now)
    (one,) = backend.broker.publish([draft()])
    now = 500.0
    (two,) = backend.broker.publish([draft()])
    assert two.id > one.id


def test_two_backends_have_different_epochs() -> None:
    epochs = {MemoryBackend().broker.publish([draft()])[0].places[0].epoch for _ in range(2)}
    assert len(epochs) == 2


def test_closed_backends_deliver_nothing() -> None:
    backend, heard = MemoryBackend(), []
    backend.start("w1", lambda room, record: heard.append(room), nothing, nothing, nothing)
    backend.broker.subscribe([A])
    backend.close()
    backend.broker.publish([draft()])
    assert heard == []
    assert backend.broker.read([HistoryQuery(A)])[0].head.seq == 1


def test_mailbox_goes_on_after_a_failure() -> None:
    mailbox, done = Mailbox(), []

    def fail() -> None:
        raise RuntimeError

    mailbox.post([fail, lambda: done.append(1)])
    mailbox.drain()
    assert done == [1]
