"""Messages wait in order, and their client waits when they are too many or too big."""

from __future__ import annotations

import gevent
import pytest

from wsapp.transport.inbox import INBOX_LIMIT, TURN, Inbox


class Reader:
    closed = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> bool:
        self.calls.append("pause")
        return True

    def resume(self) -> None:
        self.calls.append("resume")


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_in_order_and_one_at_a_time(reader: Reader) -> None:
    handled: list[int] = []

    def slowly(item: int) -> None:
        gevent.sleep(0.001 if item % 2 else 0)
        handled.append(item)
    inbox = Inbox(reader, slowly, 1000)
    for number in range(20):
        inbox.put(number, 1)
    gevent.sleep(0.1)
    assert handled == list(range(20))
    assert reader.calls == []
    assert not inbox.full


def test_too_many_or_too_big_pause_once(reader: Reader) -> None:
    inbox = Inbox(reader, lambda _item: None, 1000)
    for _ in range(INBOX_LIMIT + 5):
        inbox.put("x", 1)
    assert inbox.full and inbox.paused
    gevent.sleep(0.01)
    assert reader.calls == ["pause", "resume"]
    inbox.put("x", 1)
    inbox.put("big", 999)
    assert inbox.full
    gevent.sleep(0.01)
    assert reader.calls == ["pause", "resume"] * 2


def test_others_get_their_turn(reader: Reader) -> None:
    handled: list[str] = []
    one, two = Inbox(reader, handled.append, 1000), Inbox(reader, handled.append, 1000)
    for _ in range(TURN * 2):
        one.put("one", 1)
    two.put("two", 1)
    gevent.sleep(0.01)
    assert handled.index("two") == TURN


def test_what_is_left_when_the_client_goes_is_not_handled(reader: Reader) -> None:
    handled: list[int] = []

    def leave(item: int) -> None:
        handled.append(item)
        reader.closed = True
    inbox = Inbox(reader, leave, 1000)
    for number in range(5):
        inbox.put(number, 1)
    gevent.sleep(0.01)
    assert handled == [0]
    assert 1 not in inbox
