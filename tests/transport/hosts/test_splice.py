"""Two sockets made one: bytes in order, ends passed on, a side that does not read."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import gevent
import gevent.socket
import pytest

from wsapp.transport.hosts import splice as splice_module
from wsapp.transport.hosts.splice import Splice


class Joined:
    """`client` and `owner` are the far ends."""

    def __init__(self, timeout: float = 5.0, first: tuple[bytes, bytes] = (b"", b"")) -> None:
        near, client = socket.socketpair()
        far, owner = socket.socketpair()
        self.client, self.owner = (gevent.socket.socket(fileno=each.detach()) for each in (client, owner))
        for each in (self.client, self.owner):
            each.settimeout(5)
        self.ended: list[Splice] = []
        self.splice = Splice(near, far, timeout, self.ended.append)
        self.splice.start(*first)

    def close(self) -> None:
        self.splice.end()
        self.client.close()
        self.owner.close()


@pytest.fixture
def joined() -> Iterator[Joined]:
    made = Joined()
    yield made
    made.close()


def until(met: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not met():
            gevent.sleep(0.001)


def test_both_ways(joined: Joined) -> None:
    for number in range(20):
        joined.client.sendall(b"q%d" % number)
        assert joined.owner.recv(100) == b"q%d" % number
        joined.owner.sendall(b"a%d" % number)
        assert joined.client.recv(100) == b"a%d" % number


def test_what_was_read_before_comes_first() -> None:
    joined = Joined(first=(b"from the client ", b"from the owner "))
    joined.client.sendall(b"and more")
    until(lambda: joined.owner.recv(100, socket.MSG_PEEK) == b"from the client and more")
    assert joined.client.recv(100) == b"from the owner "
    joined.close()


def test_much_through_a_slow_reader(joined: Joined) -> None:
    data = bytes(range(256)) * 20_000
    writer = gevent.spawn(joined.owner.sendall, data)
    gevent.sleep(0.05)
    assert not writer.ready(), "a side that does not read stops the other from being read"
    got = b""
    while len(got) < len(data):
        got += joined.client.recv(65_536)
    assert got == data
    writer.get(timeout=5)


def test_an_end_is_passed_on_and_the_other_way_stays_open(joined: Joined) -> None:
    joined.client.shutdown(socket.SHUT_WR)
    assert joined.owner.recv(100) == b""
    joined.owner.sendall(b"the last")
    joined.owner.close()
    assert joined.client.recv(100) == b"the last"
    assert joined.client.recv(100) == b""
    until(lambda: joined.ended == [joined.splice])


def test_a_second_side_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice_module, "LINGER", 0.05)
    joined = Joined()
    joined.client.shutdown(socket.SHUT_WR)
    until(lambda: joined.ended == [joined.splice])
    joined.close()


def test_who_takes_nothing_is_cut_off() -> None:
    joined = Joined(timeout=0.1)
    writer = gevent.spawn(joined.owner.sendall, b"x" * 5_000_000)
    until(lambda: joined.ended == [joined.splice])
    with pytest.raises(OSError):
        writer.get(timeout=5)
    joined.close()


def test_who_reads_slowly_is_not(joined: Joined) -> None:
    joined = Joined(timeout=0.3)
    writer = gevent.spawn(joined.owner.sendall, b"x" * 1_500_000)
    got = 0
    while got < 1_500_000:
        got += len(joined.client.recv(65_536))
        gevent.sleep(0.03)
    writer.get(timeout=5)
    assert not joined.ended
    joined.close()


def test_the_end_is_told_once(joined: Joined) -> None:
    joined.splice.end()
    joined.splice.end()
    assert joined.ended == [joined.splice]
    assert joined.owner.recv(1) == joined.client.recv(1) == b""
