from __future__ import annotations

import _thread
import threading
import time

import pytest

from tests.backends.conftest import eventually
from wsapp.backends.redis_opening import Opening


class Wire:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_what_is_there_in_time() -> None:
    wire = Wire()
    opening = Opening(lambda: wire)
    assert opening.wait(10) is wire


def test_what_fails_is_raised_to_whoever_waits() -> None:
    def fail() -> Wire:
        raise ConnectionRefusedError(111, "refused")

    opening = Opening(fail)
    with pytest.raises(ConnectionRefusedError):
        opening.wait(10)


def test_what_comes_late_is_for_the_next() -> None:
    there, wire = threading.Event(), Wire()

    def slow() -> Wire:
        there.wait()
        return wire

    opening = Opening(slow)
    begun = time.monotonic()
    assert opening.wait(0.01) is None
    assert time.monotonic() - begun < 5
    there.set()
    assert opening.wait(10) is wire


def test_what_nobody_wants_is_closed() -> None:
    there, wire, late = threading.Event(), Wire(), Wire()

    def slow() -> Wire:
        there.wait()
        return late

    opening = Opening(lambda: wire)
    opening.wait(10)
    opening.discard()
    assert wire.closed
    opening = Opening(slow)
    opening.discard()
    there.set()
    eventually(lambda: late.closed)


def test_where_no_thread_can_be_started_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    wire = Wire()
    assert Opening(lambda: wire).wait(0) is wire
