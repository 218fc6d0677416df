"""Questions to all workers: answers merged, those who do not answer named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gevent
import pytest

from tests.runtime.world import eventually
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.cluster_calls import ClusterCalls


class Wires:
    """A cluster whose control channels are function calls; `deaf` workers get nothing."""

    def __init__(self) -> None:
        self.ends: dict[str, ClusterCalls] = {}
        self.deaf: set[str] = set()
        self.away = False

    def join(self, boot: str, **verbs: Any) -> ClusterCalls:
        calls = self.ends[boot] = ClusterCalls(self, verbs)
        calls.boot = boot
        return calls

    def workers(self) -> dict[str, dict[str, object]]:
        if self.away:
            raise BrokerUnavailable("away")
        return {boot: {} for boot in self.ends}

    def send(self, boot: str, message: bytes) -> None:
        if boot not in self.deaf:
            verb, _, argument = message.decode().partition(" ")
            assert self.ends[boot].on_control(verb, argument)

    def beat(self, boot: str, facts: Mapping[str, object], ttl: float) -> None:
        raise AssertionError("not asked for")

    def leave(self, boot: str) -> None:
        raise AssertionError("not asked for")


def test_everybody_answers() -> None:
    wires = Wires()
    first = wires.join("a", double=lambda number: number * 2)
    wires.join("b", double=lambda number: number * 20)
    found = first.ask("double", 3)
    assert (found.by_boot, found.missing) == ({"a": 6, "b": 60}, [])
    assert sorted(found.values) == [6, 60]


def test_who_is_silent_is_named() -> None:
    wires = Wires()
    first = wires.join("a", hello=lambda _: "a")
    wires.join("b", hello=lambda _: "b")
    wires.join("c")  # does not know the question
    wires.deaf.add("b")
    found = first.ask("hello", patience=0.05)
    assert (found.by_boot, found.missing) == ({"a": "a"}, ["b", "c"])
    assert not first._questions._open


def test_late_and_foreign_answers_change_nothing() -> None:
    wires = Wires()
    first = wires.join("a", slow=lambda _: 1)
    wires.join("b", slow=lambda _: gevent.sleep(0.05))
    assert first.ask("slow", patience=0.01).missing == ["b"]
    gevent.sleep(0.1)
    assert first.on_control("answer", '{"id":"unknown","from":"b","value":1}')
    assert not first.on_control("fenced", "x")


def test_without_redis_nobody_can_be_asked() -> None:
    wires = Wires()
    first = wires.join("a", hello=lambda _: "a")
    wires.away = True
    with pytest.raises(BrokerUnavailable):
        first.ask("hello")


def test_questions_at_once_are_told_apart() -> None:
    wires = Wires()
    first = wires.join("a", echo=lambda word: word)
    wires.join("b", echo=lambda word: word)
    asked = [gevent.spawn(first.ask, "echo", word) for word in "xyz"]
    eventually(lambda: all(one.ready() for one in asked))
    assert [one.value.values for one in asked] == [[word, word] for word in "xyz"]
