"""The outbox on real sockets under the hub: order, bounds, and TCP connections that really end."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from wsapp.transport.outbox import Outbox

PATIENCE = 5.0


def until(met: Callable[[], object]) -> None:
    """Let the hub run until `met`."""
    with gevent.Timeout(PATIENCE):
        while not met():
            gevent.sleep(0.001)


class End:
    """The server's end with its outbox, and the client's raw one."""

    def __init__(self, ours: socket.socket, client: socket.socket, max_bytes: int) -> None:
        ours.setblocking(False)
        client.setblocking(False)
        self.ours, self.client = ours, client
        self.received: list[bytes] = []
        self.closed: list[str] = []
        self.outbox = Outbox(ours, self.received.append, self.closed.append, max_bytes, 30.0)

    def read(self, limit: int = 65536) -> bytes:
        """What is there for the client now."""
        try:
            return self.client.recv(limit)
        except BlockingIOError:
            return b""

    def read_to_the_end(self) -> bytes:
        found, ended = b"", False
        with gevent.Timeout(PATIENCE):
            while not ended:
                try:
                    data = self.client.recv(1 << 20)
                    found, ended = found + data, not data
                except BlockingIOError:
                    gevent.sleep(0.001)
        return found

    def jam(self) -> bytes:
        """Write until the kernel takes no more; returns all that was written."""
        written = b""
        number = 0
        while not self.outbox.waiting_bytes:
            part = b"%06d," % number * 1000
            self.outbox.write(part)
            written, number = written + part, number + 1
        return written


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture(params=["unix", "tcp"])
def end(request: pytest.FixtureRequest) -> Iterator[End]:
    ours, client = socket.socketpair() if request.param == "unix" else tcp_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    made = End(ours, client, 1_000_000)
    yield made
    made.outbox.abort("the test is over")
    client.close()


def test_bytes_come_by_callback_and_go_at_once(end: End) -> None:
    end.outbox.start()
    end.outbox.write(b"out")
    assert end.read() == b"out"  # without a turn of the hub
    end.client.send(b"in")
    until(lambda: end.received)
    assert end.received == [b"in"]
    assert end.outbox.waiting_bytes == 0


def test_short_writes_keep_their_order(end: End) -> None:
    end.outbox.start()
    written = end.jam()
    for number in range(50):
        part = b"<%d>" % number * 500
        end.outbox.write(part)
        written += part
    assert end.outbox.waiting_bytes > 0
    found = b""
    with gevent.Timeout(PATIENCE):
        while len(found) < len(written):
            found += end.read()
            gevent.sleep(0)
    assert found == written
    assert end.outbox.waiting_bytes == 0
    end.outbox.write(b"direct again")
    until(lambda: end.read() == b"direct again")


def test_waiting_bytes_are_counted(end: End) -> None:
    end.jam()
    before = end.outbox.waiting_bytes
    end.outbox.write(b"x" * 100)
    assert end.outbox.waiting_bytes == before + 100


def test_past_its_bytes_the_connection_is_cut_and_nothing_raised(end: End) -> None:
    end.outbox.start()
    end.jam()
    for _ in range(12):
        end.outbox.write(b"x" * 100_000)  # the fan-out goes on, this one is cut after it
    assert not end.closed
    until(lambda: end.closed)
    assert "does not read" in end.closed[0]
    assert end.outbox.closed
    end.read_to_the_end()
    end.outbox.write(b"later")
    gevent.sleep(0.01)
    assert len(end.closed) == 1


def test_age_is_counted_from_the_last_byte_that_went(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert not end.outbox.overdue(1000.0)  # nothing waits
    end.jam()
    assert not end.outbox.overdue(130.0)
    assert end.outbox.overdue(130.1)
    now[0] = 125.0
    before = end.outbox.waiting_bytes
    end.outbox.write(b"x" * 900_000)
    while end.outbox.waiting_bytes >= before + 900_000:
        end.read()
        gevent.sleep(0)
    assert not end.outbox.overdue(150.0)
    assert end.outbox.overdue(156.0)


def test_abort_ends_tcp_though_somebody_holds_a_copy_of_the_descriptor(end: End) -> None:
    copy = end.ours.dup()
    end.outbox.start()
    end.outbox.write(b"bye")
    end.outbox.abort("enough")
    end.outbox.abort("again")
    assert end.read_to_the_end() == b"bye"
    assert end.closed == ["enough"]
    copy.close()


def test_the_peer_leaves(end: End) -> None:
    end.outbox.start()
    end.client.send(b"last")
    end.client.shutdown(socket.SHUT_WR)
    until(lambda: end.closed)
    assert (end.received, end.closed) == ([b"last"], ["transport close"])


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_writing_to_one_that_is_gone_raises_nothing(end: End) -> None:
    reset(end.client)
    for _ in range(5):
        end.outbox.write(b"x" * 1000)
    until(lambda: end.closed)
    assert end.closed[0].startswith("transport error")


def test_a_reset_is_noticed_by_reading(end: End) -> None:
    end.outbox.start()
    end.jam()
    reset(end.client)
    until(lambda: end.closed)
    assert len(end.closed) == 1


def test_a_reader_that_is_paused_feels_it(end: End) -> None:
    end.outbox.start()
    end.outbox.pause()
    end.client.send(b"1")
    gevent.sleep(0.02)
    assert end.received == []
    end.outbox.resume()
    end.outbox.resume()
    until(lambda: end.received)
    assert end.received == [b"1"]


def test_finishing_waits_for_the_peer_and_takes_no_more(end: End) -> None:
    end.outbox.start()
    end.outbox.write(b"goodbye")
    end.outbox.finish(PATIENCE)
    end.outbox.write(b"after")
    end.client.send(b"and to you")
    until(lambda: end.received)
    assert not end.closed
    end.client.close()
    until(lambda: end.closed)
    assert end.received == [b"and to you"]


def test_finishing_sends_what_waits_and_does_not_end_before_the_peer_has_it(end: End) -> None:
    end.outbox.start()
    end.outbox.pause()
    written = end.jam()
    end.client.send(b"never read")  # an unread byte turns a close into a reset
    end.outbox.finish(PATIENCE)
    found = b""
    with gevent.Timeout(PATIENCE):
        while len(found) < len(written):
            found += end.read(1000)
            gevent.sleep(0)
    assert found == written
    assert not end.closed


def test_finishing_has_an_end(end: End) -> None:
    end.jam()
    end.outbox.finish(0.02)
    end.outbox.finish(PATIENCE)
    until(lambda: end.closed)
    assert end.closed == ["closed"]


def test_after_both_goodbyes_it_ends_as_soon_as_nothing_waits(end: End) -> None:
    end.outbox.half_close(PATIENCE)
    assert end.closed == ["closed"]


def test_after_both_goodbyes_what_waits_is_still_sent(end: End) -> None:
    written = end.jam()
    end.outbox.half_close(PATIENCE)
    assert not end.closed
    assert end.read_to_the_end() == written
    assert end.closed == ["closed"]


def test_after_both_goodbyes_one_who_does_not_read_is_not_waited_for_for_ever(end: End) -> None:
    end.jam()
    end.outbox.half_close(0.02)
    until(lambda: end.closed)


def test_a_writer_may_end_it_from_within_on_data() -> None:
    ours, client = socket.socketpair()
    ours.setblocking(False)
    closed: list[str] = []
    made: list[Any] = []

    def on_data(data: bytes) -> None:
        made[0].abort(data.decode())
        made[0].write(b"too late")
        made[0].pause()
        made[0].resume()
        made[0].finish(1.0)

    made.append(Outbox(ours, on_data, closed.append, 1000, 1.0))
    made[0].start()
    client.send(b"stop")
    until(lambda: closed)
    assert closed == ["stop"]
    assert client.recv(10) == b""
    client.close()


def test_hanging_up_tells_the_peer_by_tcp_and_reads_on(end: End) -> None:
    end.outbox.start()
    end.outbox.write(b"last")
    end.outbox.hang_up(5.0)
    assert end.read_to_the_end() == b"last"
    end.client.sendall(b"still talking")
    until(lambda: end.received == [b"still talking"])
    assert end.closed == []
    end.client.close()
    until(lambda: end.closed == ["transport close"])


def test_hanging_up_sends_what_waits_first(end: End) -> None:
    end.outbox.start()
    written = end.jam()
    end.outbox.hang_up(5.0)
    assert end.read_to_the_end() == written
    assert end.closed == []
