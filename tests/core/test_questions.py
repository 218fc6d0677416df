"""Questions over control channels, asked from outside the cluster: by threads, without gevent."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

import pytest

from wsapp.core.questions import Questions, answer
from wsapp.errors import BrokerUnavailable


class Wires:
    """Workers that answer with their own name, each on a thread; `deaf` ones never."""

    def __init__(self, *deaf: str) -> None:
        self.questions = Questions(self)
        self.deaf, self.asked = deaf, list[dict[str, object]]()
        self.away = False

    def send(self, boot: str, message: bytes) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        kind, _, argument = message.decode().partition(" ")
        assert kind == "ask"
        told = json.loads(argument)
        self.asked.append({"to": boot, **told})
        if boot not in self.deaf:
            reply = answer(told["id"], boot, f"I am {boot}").decode().removeprefix("answer ")
            threading.Timer(0.01, self.questions.take, (reply,)).start()

    def workers(self) -> dict[str, dict[str, object]]:
        raise AssertionError("not asked for")

    def beat(self, boot: str, facts: Mapping[str, object], ttl: float) -> None:
        raise AssertionError("not asked for")

    def leave(self, boot: str) -> None:
        raise AssertionError("not asked for")


def test_who_is_asked_answers() -> None:
    wires = Wires()
    found = wires.questions.ask("me", ["a", "b"], "name", {"x": 1}, 10)
    assert (found.by_boot, found.missing) == ({"a": "I am a", "b": "I am b"}, [])
    assert {(one["to"], one["from"], one["verb"]) for one in wires.asked} == {("a", "me", "name"), ("b", "me", "name")}
    assert wires.asked[0]["question"] == {"x": 1}


def test_the_silent_are_named_and_late_answers_change_nothing() -> None:
    wires = Wires("b")
    found = wires.questions.ask("me", ["a", "b"], "name", patience=0.2)
    assert (found.values, found.missing) == (["I am a"], ["b"])
    wires.questions.take(answer(str(wires.asked[0]["id"]), "b", 1).decode().removeprefix("answer "))
    assert found.missing == ["b"]
    assert not wires.questions._open


def test_nobody_is_asked_in_vain() -> None:
    done: list[str] = []
    found = Wires().questions.ask("me", [], "name", None, 10, lambda: done.append("meanwhile"))
    assert (found.by_boot, found.missing, done) == ({}, [], ["meanwhile"])


def test_what_fails_leaves_no_question_open() -> None:
    wires = Wires()
    wires.away = True
    with pytest.raises(BrokerUnavailable):
        wires.questions.ask("me", ["a"], "name")
    assert not wires.questions._open
