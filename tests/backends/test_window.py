"""Bursts leave together; lone publishes do not wait; everybody gets their own answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest

from tests.harness import wait_until
from wsapp.backends.window import LARGEST, Window
from wsapp.core.events import Draft, Placed
from wsapp.core.ports import Receipt
from wsapp.errors import BrokerUnavailable


def draft(name: str) -> Draft:
    return Draft("built", ("project:p",), name.encode(), 0)


class Server:
    """Answers each draft with its body as the id; the first call waits until it is let go."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.away = False

    def send(self, drafts: Sequence[Draft]) -> list[Receipt]:
        self.calls.append(len(drafts))
        self.begun.set()
        assert self.go.wait(10)
        if self.away:
            raise BrokerUnavailable("away")
        return [Receipt(one.body.decode(), (Placed("project:p", 1, "e"),)) for one in drafts]


class Crowd:
    """Callers on threads of their own; the first is under way when the others come."""

    def __init__(self, server: Server, *names: str) -> None:
        self.window, self.server = Window(server.send, 10.0), server
        self.told: dict[str, object] = {}
        self.threads = [threading.Thread(target=self._call, args=(name,)) for name in names]
        self.threads[0].start()
        assert server.begun.wait(10)
        for thread in self.threads[1:]:
            thread.start()
        while len(self.window._waiting) < len(names) - 1:
            threading.Event().wait(0.001)

    def _call(self, name: str) -> None:
        try:
            self.told[name] = self.window.ask([draft(name)])[0].id
        except Exception as error:
            self.told[name] = error

    def finish(self) -> None:
        self.server.go.set()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


def test_a_lone_publish_leaves_at_once() -> None:
    server = Server()
    server.go.set()
    window = Window(server.send, 10.0)
    for name in ("a", "b"):
        assert window.ask([draft(name)])[0].id == name
    assert server.calls == [1, 1]


def test_those_who_come_meanwhile_leave_together() -> None:
    server = Server()
    names = [f"n{number}" for number in range(20)]
    crowd = Crowd(server, *names)
    crowd.finish()
    assert server.calls == [1, 19]
    assert crowd.told == {name: name for name in names}


def test_a_server_that_is_away_is_told_to_all_at_once() -> None:
    server = Server()
    server.away = True
    crowd = Crowd(server, "a", "b", "c")
    crowd.finish()
    assert server.calls == [1], "nobody waits for a second time-out"
    assert all(isinstance(told, BrokerUnavailable) for told in crowd.told.values())
    server.away = False
    assert crowd.window.ask([draft("again")])[0].id == "again"


def test_a_pipeline_has_an_end() -> None:
    server = Server()
    server.go.set()
    window = Window(server.send, 10.0)
    assert len(window.ask([draft("many")] * (LARGEST + 1))) == LARGEST + 1
    assert server.calls == [LARGEST + 1]


@pytest.mark.parametrize("threads", [8])
def test_many_threads_for_a_while(threads: int) -> None:
    server = Server()
    server.go.set()
    window = Window(server.send, 10.0)
    wrong: list[str] = []

    def publish(thread: int) -> None:
        for number in range(200):
            name = f"{thread}-{number}"
            if window.ask([draft(name)])[0].id != name:
                wrong.append(name)

    crowd = [threading.Thread(target=publish, args=(number,)) for number in range(threads)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(30)
    assert wrong == []
    assert sum(server.calls) == threads * 200


class Interrupted(BaseException):
    """As KeyboardInterrupt, or gevent's GreenletExit."""


def test_who_is_interrupted_takes_nobody_along() -> None:
    server = Server()
    crowd = Crowd(server, "a", "b", "c")
    inner, first = crowd.window._send, []

    def interrupted(drafts: Sequence[Draft]) -> list[Receipt]:
        if len(drafts) > 1:
            first.append(len(drafts))
            raise Interrupted
        return inner(drafts)

    crowd.window._send = interrupted
    hook, threading.excepthook = threading.excepthook, lambda _args: None
    try:
        crowd.finish()
    finally:
        threading.excepthook = hook
    assert first == [2]
    assert crowd.told["a"] == "a"
    assert sum(isinstance(told, BrokerUnavailable) for told in crowd.told.values()) == 1
    assert crowd.window.ask([draft("later")])[0].id == "later"


def test_who_waits_for_a_sender_that_is_slow_does_not_wait_for_ever() -> None:
    server = Server()
    crowd = Crowd(server, "a")
    crowd.window._patience = 0.05
    with pytest.raises(BrokerUnavailable, match="nothing was sent"):
        crowd.window.ask([draft("b")])
    crowd.finish()
    assert crowd.window.ask([draft("b")])[0].id == "b"


def test_the_calls_of_a_sender_that_is_gone_are_taken_over() -> None:
    """An exception from outside came between two of its lines: it is not inside any more, and told nobody."""
    server = Server()
    crowd = Crowd(server, "a", "b", "c")
    crowd.window._inside.discard(next(iter(crowd.window._inside - {one.thread for one in crowd.window._waiting})))
    wait_until(lambda: not crowd.window._waiting, "somebody to take over", timeout=10)
    crowd.finish()
    assert crowd.told == {"a": "a", "b": "b", "c": "c"}


def test_a_call_within_a_call_of_the_same_thread_waits_for_nobody() -> None:
    """A signal handler or a finalizer: it would wait for itself."""
    server = Server()
    server.go.set()
    window: Window[Draft, Receipt] = Window(lambda drafts: send(drafts), 10.0)

    def send(drafts: Sequence[Draft]) -> list[Receipt]:
        if drafts[0].body == b"outer":
            assert window.ask([draft("inner")])[0].id == "inner"
        return server.send(drafts)

    assert window.ask([draft("outer")])[0].id == "outer"
    assert server.calls == [1, 1]


def test_a_child_process_begins_with_nobody_waiting() -> None:
    server = Server()
    crowd = Crowd(server, "a", "b")
    child = os.fork()
    if child == 0:
        server.go.set()
        try:
            os._exit(0 if crowd.window.ask([draft("child")])[0].id == "child" else 1)
        finally:
            os._exit(2)
    try:
        wait_until(lambda: os.waitpid(child, os.WNOHANG)[0] == child, "the child's publish", timeout=10)
    finally:
        crowd.finish()
    assert crowd.told == {"a": "a", "b": "b"}
