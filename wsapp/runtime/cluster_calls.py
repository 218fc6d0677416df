"""Questions to all workers and their answers, over the control channels.

    ask {id, from, verb, question}      to every worker with a lease
    answer {id, value}                  back to the one that asked

A worker that does not answer in time is counted as missing, so that an answer never looks more complete than it is.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import gevent
from gevent.event import Event

from wsapp.core.events import strict_dumps, strict_loads
from wsapp.core.ports import Cluster
from wsapp.errors import BrokerUnavailable

log = logging.getLogger(__name__)

PATIENCE: Final = 1.0  # seconds for all answers
ASK: Final = "ask"
ANSWER: Final = "answer"

Verbs = Mapping[str, Callable[[Any], Any]]


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
    done: Event = field(default_factory=Event)

    def take(self, boot: str, value: Any) -> None:
        if boot in self.waited_for:
            self.waited_for.discard(boot)
            self.answers.by_boot[boot] = value
            if not self.waited_for:
                self.done.set()


class ClusterCalls:
    """One worker's end.  `verbs` answer questions about this worker: JSON in, JSON out; they may raise nothing."""

    def __init__(self, cluster: Cluster, verbs: Verbs) -> None:
        self._cluster, self._verbs = cluster, verbs
        self._open: dict[str, _Open] = {}
        self.boot = ""

    def ask(self, verb: str, question: Any = None, patience: float = PATIENCE) -> Answers:
        """Ask this worker and all others.  While Redis is away the others cannot be asked: raises
        BrokerUnavailable."""
        others = set(self._cluster.workers()) - {self.boot}
        id = secrets.token_hex(8)
        open_ = self._open[id] = _Open(set(others), Answers())
        message = f"{ASK} {strict_dumps({'id': id, 'from': self.boot, 'verb': verb, 'question': question})}".encode()
        try:
            for boot in others:
                self._cluster.send(boot, message)
            open_.answers.by_boot[self.boot] = self._verbs[verb](question)
            if others:
                open_.done.wait(patience)
        finally:
            del self._open[id]
        open_.answers.missing = sorted(open_.waited_for)
        if open_.answers.missing:
            log.warning("%s: no answer from %s", verb, ", ".join(open_.answers.missing))
        return open_.answers

    def on_control(self, kind: str, argument: str) -> bool:
        """A control message; False when it is none of ours.  Never blocks."""
        if kind == ANSWER:
            told = strict_loads(argument)
            waiting = self._open.get(told["id"])
            if waiting is not None:
                waiting.take(told["from"], told["value"])
        elif kind == ASK:
            gevent.spawn(self._answer, strict_loads(argument))
        return kind in (ASK, ANSWER)

    def _answer(self, asked: dict[str, Any]) -> None:
        verb = self._verbs.get(asked["verb"])
        if verb is None:  # a newer worker, while the cluster is being renewed
            log.warning("%s asks for %s, which is not known here", asked["from"], asked["verb"])
            return
        told = {"id": asked["id"], "from": self.boot, "value": verb(asked["question"])}
        try:
            self._cluster.send(asked["from"], f"{ANSWER} {strict_dumps(told)}".encode())
        except BrokerUnavailable as error:
            log.warning("an answer did not reach %s: %s", asked["from"], error)
