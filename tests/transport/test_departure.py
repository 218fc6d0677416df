"""A client that hangs up while its request waits is noticed; one that sends more is left alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest

from wsapp.transport.departure import Departure


@pytest.fixture
def pair() -> Iterator[tuple[gevent.socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    served = gevent.socket.socket(fileno=ours.detach())
    yield served, theirs
    served.close()
    theirs.close()


def test_one_who_hangs_up_is_noticed_once(pair: tuple[gevent.socket.socket, socket.socket]) -> None:
    left: list[bool] = []
    with Departure(pair[0], lambda: left.append(True)):
        gevent.sleep(0.01)
        assert left == []
        pair[1].close()
        with gevent.Timeout(5):
            while not left:
                gevent.sleep(0.001)
        gevent.sleep(0.01)
    assert left == [True]


def test_one_who_sends_more_is_not_read_from(pair: tuple[gevent.socket.socket, socket.socket]) -> None:
    left: list[bool] = []
    with Departure(pair[0], lambda: left.append(True)):
        pair[1].sendall(b"GET / HTTP/1.1\r\n")
        gevent.sleep(0.01)
    assert (left, pair[0].recv(100)) == ([], b"GET / HTTP/1.1\r\n")


def test_afterwards_nobody_looks(pair: tuple[gevent.socket.socket, socket.socket]) -> None:
    left: list[bool] = []
    with Departure(pair[0], lambda: left.append(True)):
        pass
    pair[1].close()
    gevent.sleep(0.01)
    assert left == []


def test_without_a_socket_nothing_is_watched() -> None:
    with Departure(None, lambda: None):
        gevent.sleep(0)


def test_one_who_left_before_is_noticed_at_once(pair: tuple[gevent.socket.socket, socket.socket]) -> None:
    pair[1].close()
    left: list[bool] = []
    with Departure(pair[0], lambda: left.append(True)):
        assert left == [True]
