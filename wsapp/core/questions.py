"""Questions to workers and their answers, over the control channels.

    ask {id, from, verb, question}      to every worker that is asked
    answer {id, from, value}            back to the one that asked

A worker that does not answer in time is counted as missing, so that an answer never looks more complete than it is.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from wsapp.core.events import strict_dumps, strict_loads
from wsapp.core.ports import Cluster

PATIENCE: Final = 1.0  # seconds for all answers
ASK: Final = "ask"
ANSWER: Final = "answer"


class Signal(Protocol):
    """An event of `threading`, or one of gevent's."""

    def set(self) -> object: ...
    def wait(self, timeout: float) -> object: ...


@dataclass(slots=True)
class Answers:
    """What the workers said, by boot id; `missing` did not answer."""

    by_boot: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def values(self) -> list[Any]:
        """The answers alone."""
        return list(self.by_boot.values())


@dataclass(slots=True)
class _Open:
    waited_for: set[str]
    answers: Answers
    done: Signal

    def take(self, boot: str, value: Any) -> None:
        if boot in self.waited_for:
            self.waited_for.discard(boot)
            self.answers.by_boot[boot] = value
            if not self.waited_for:
                self.done.set()


def _nothing() -> None:
    return None


class Questions:
    """The end that asks.  `signal` makes what it waits on."""

    def __init__(self, cluster: Cluster, signal: Callable[[], Signal] = threading.Event) -> None:
        self._cluster, self._signal = cluster, signal
        self._open: dict[str, _Open] = {}

    def ask(self, sender: str, boots: Iterable[str], verb: str, question: Any = None, patience: float = PATIENCE,
            meanwhile: Callable[[], None] = _nothing) -> Answers:
        """Ask the workers `boots`, to be answered on the control channel of `sender`; `meanwhile` is called once all
        are asked.  Raises BrokerUnavailable."""
        asked = set(boots)
        id = secrets.token_hex(8)
        open_ = self._open[id] = _Open(set(asked), Answers(), self._signal())
        message = f"{ASK} {strict_dumps({'id': id, 'from': sender, 'verb': verb, 'question': question})}".encode()
        try:
            for boot in asked:
                self._cluster.send(boot, message)
            meanwhile()
            if asked:
                open_.done.wait(patience)
        finally:
            del self._open[id]
        open_.answers.missing = sorted(open_.waited_for)
        return open_.answers

    def take(self, argument: str) -> None:
        """An answer that came.  One that nobody waits for any more changes nothing."""
        told = strict_loads(argument)
        waiting = self._open.get(told["id"])
        if waiting is not None:
            waiting.take(told["from"], told["value"])


def answer(id: str, boot: str, value: Any) -> bytes:
    """The control message that answers."""
    return f"{ANSWER} {strict_dumps({'id': id, 'from': boot, 'value': value})}".encode()
