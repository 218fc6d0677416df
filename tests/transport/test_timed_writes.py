"""Answers that nobody reads; on real workers: tests/cluster/test_stream.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket

from wsapp.transport.timed_writes import PART, TimedWrites


class Plain:
    """What pywsgi's handler does."""

    socket: Any

    def _sendall(self, data: Any) -> None:
        self.socket.sendall(data)


class Writer(TimedWrites, Plain):
    def __init__(self, timeout: float = 0.05) -> None:
        self.socket, self.reader = socket.socketpair()
        self.cut_off = 0
        self.server = SimpleNamespace(write_timeout=timeout, on_dawdler=self.count, address=("", 0))

    def count(self) -> None:
        self.cut_off += 1


def test_a_client_that_does_not_read_is_cut_off() -> None:
    writer = Writer()
    with pytest.raises(BrokenPipeError):
        writer._sendall(b"x" * 10_000_000)
    assert writer.cut_off == 1
    while writer.reader.recv(PART):
        pass  # what was sent, and then the end


def test_a_slow_reader_is_served_however_long_it_takes() -> None:
    writer, size = Writer(timeout=1.0), 2_000_000
    got = 0

    def read() -> None:
        nonlocal got
        while got < size:
            got += len(writer.reader.recv(PART))
            gevent.sleep(0.05)

    reading = gevent.spawn(read)
    writer._sendall(b"x" * size)
    reading.join(30)
    assert (got, writer.cut_off) == (size, 0)


def test_a_client_that_went_is_no_dawdler() -> None:
    writer = Writer()
    writer.reader.close()
    with pytest.raises(BrokenPipeError):
        writer._sendall(b"x" * 10_000_000)
    assert writer.cut_off == 0
