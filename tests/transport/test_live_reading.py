"""The live connection read by callbacks of the hub: what arrives is taken, and how it ends is raised."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event

from wsapp.transport import live_reading
from wsapp.transport.live_reading import PIECE, read_in_hub


class Sock:
    """One end of a connection, as `LiveSocket`; counts the calls that found nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.calls, self.idle = sock, 0, 0
        sock.setblocking(False)

    def fileno(self) -> int:
        return self.sock.fileno()

    def recv(self, size: int) -> bytes:
        return self.sock.recv(size)

    def recv_now(self, size: int) -> bytes:
        self.calls += 1
        try:
            return os.read(self.sock.fileno(), size)
        except BlockingIOError:
            self.idle += 1
            raise


class Reader:
    """A reading at work in a greenlet."""

    def __init__(self, ours: Sock, take: Callable[[bytes], bool] | None = None) -> None:
        self.sock, self.taken, self.settled, self.more = ours, bytearray(), 0, Event()
        self._given = take
        self.greenlet = gevent.spawn(read_in_hub, ours, self._take, self._settle)

    def _take(self, data: bytes) -> bool:
        assert gevent.getcurrent() is gevent.get_hub()  # no greenlet in between
        self.taken += data
        self.more.set()
        return self._given(data) if self._given else False

    def _settle(self) -> None:
        assert gevent.getcurrent() is self.greenlet  # it may wait
        gevent.sleep(0)
        self.settled += 1

    def until(self, size: int) -> None:
        with gevent.Timeout(10):
            while len(self.taken) < size:
                self.more.wait()
                self.more.clear()


@pytest.fixture
def pair() -> Iterator[tuple[Sock, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Sock(ours), theirs


def test_what_arrives_is_taken_in_order(pair: tuple[Sock, socket.socket]) -> None:
    ours, theirs = pair
    reader = Reader(ours)
    expected = b""
    for number in range(50):
        expected += b"%d," % number
        theirs.sendall(b"%d," % number)
        gevent.sleep(0.0005 if number % 3 else 0.004)
    reader.until(len(expected))
    assert bytes(reader.taken) == expected
    assert (reader.settled, reader.greenlet.dead) == (0, False)


def test_under_load_a_wake_up_takes_several_and_an_idle_connection_costs_nothing(
        pair: tuple[Sock, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_reading, "GATHER_S", 0.5)
    ours, theirs = pair
    reader = Reader(ours)
    for number in (1, 2):  # the second wake-up soon after the first
        theirs.sendall(b"x")
        reader.until(number)
    for _ in range(20):
        theirs.sendall(b"x")
        gevent.sleep(0.001)  # the hub polls, and would read each one by itself
    reader.until(22)
    assert ours.calls < 12
    with gevent.Timeout(10):
        while not ours.idle:  # an interval in which nothing came
            gevent.sleep(0.01)
    before = ours.calls
    gevent.sleep(0.6)
    assert ours.calls == before
    theirs.sendall(b"y")
    reader.until(23)


def test_more_than_a_piece_is_read_at_once(pair: tuple[Sock, socket.socket]) -> None:
    ours, theirs = pair
    reader = Reader(ours)
    size = 5 * PIECE

    def send() -> None:
        theirs.setblocking(False)
        rest = memoryview(b"z" * size)
        while rest:
            try:
                rest = rest[theirs.send(rest):]
            except BlockingIOError:
                gevent.sleep(0)

    gevent.spawn(send)
    reader.until(size)


def test_what_has_to_be_settled_is_settled_in_the_calling_greenlet(pair: tuple[Sock, socket.socket]) -> None:
    ours, theirs = pair
    reader = Reader(ours, lambda data: b"!" in data)
    theirs.sendall(b"a")
    reader.until(1)
    assert reader.settled == 0
    theirs.sendall(b"!")
    reader.until(2)
    with gevent.Timeout(10):
        while not reader.settled:
            gevent.sleep(0)


def test_the_end_of_the_connection_is_raised(pair: tuple[Sock, socket.socket]) -> None:
    ours, theirs = pair
    reader = Reader(ours)
    theirs.sendall(b"last")
    theirs.close()
    reader.greenlet.join(10)
    assert bytes(reader.taken) == b"last"
    assert isinstance(reader.greenlet.exception, ConnectionResetError)


def test_an_error_of_the_taker_ends_the_reading(pair: tuple[Sock, socket.socket]) -> None:
    ours, theirs = pair

    def fail(_data: bytes) -> bool:
        raise ValueError("no RESP")

    reader = Reader(ours, fail)
    theirs.sendall(b"a")
    reader.greenlet.join(10)
    assert isinstance(reader.greenlet.exception, ValueError)
    theirs.sendall(b"b")
    gevent.sleep(0.02)
    assert bytes(reader.taken) == b"a"


WORKER = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from wsapp.backends import open_backend
from wsapp.core.events import Draft, parse_record
from wsapp.core.ports import Limits
from wsapp.transport import live_reading
from wsapp.transport.live_reading import read_in_hub
from tests.valkey import Valkey

def until(check):
    with gevent.Timeout(20):
        while not check():
            gevent.sleep(0.005)

with Valkey() as server:
    backend = open_backend(server.url, Limits(), channel="stock", timeout=1.0, partitions=int(sys.argv[1]),
                           reading=read_in_hub)
    heard, gaps, bus, control = [], [], [], []
    def on_record(room, record):
        assert gevent.getcurrent() is gevent.get_hub()
        heard.append((room, parse_record(record).seq(room)))
    def on_gap():
        gevent.sleep(0.01)  # it may wait
        gaps.append(1)
    backend.start("w1", on_record, on_gap, bus.append, control.append)
    rooms = ["agent:a", "agent:b", "agent:c"]
    backend.broker.subscribe(rooms)
    def publish():
        for _ in range(100):
            backend.broker.publish([Draft("e", (room,), b"{}", 1) for room in rooms])
    gevent.joinall([gevent.spawn(publish) for _ in range(4)], raise_error=True)
    until(lambda: len(heard) == 1200)
    for room in rooms:
        assert [seq for name, seq in heard if name == room] == list(range(1, 401))
    backend.bus.publish(b"hello")
    backend.cluster.send("w1", b"control")
    until(lambda: (bus, control) == ([b"hello"], [b"control"]))
    port = server.port
    server.kill()
    until(lambda: backend.deaf is not None)
    server.start(port)
    until(lambda: backend.deaf is None and len(gaps) == int(sys.argv[1]))
    heard.clear()
    publish()
    until(lambda: len(heard) == 300)
    backend.close()
print("fine")
"""


@pytest.mark.parametrize("partitions", ["1", "3"])
def test_a_backend_read_in_a_worker_s_hub(partitions: str) -> None:
    """In a process of its own, patched as a worker is."""
    done = subprocess.run([sys.executable, "-c", WORKER, partitions], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr
