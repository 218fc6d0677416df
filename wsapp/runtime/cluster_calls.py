"""Questions to all workers and their answers: a worker's end (`wsapp.core.questions`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent
from gevent.event import Event

from wsapp.core.events import strict_loads
from wsapp.core.ports import Cluster
from wsapp.core.questions import ANSWER, ASK, PATIENCE, Answers, Questions, answer
from wsapp.errors import BrokerUnavailable

log = logging.getLogger(__name__)

Verbs = Mapping[str, Callable[[Any], Any]]


class ClusterCalls:
    """One worker's end.  `verbs` answer questions about this worker: JSON in, JSON out; they may raise nothing."""

    def __init__(self, cluster: Cluster, verbs: Verbs) -> None:
        self._cluster, self._verbs = cluster, dict(verbs)
        self._questions = Questions(cluster, Event)
        self.boot = ""

    def offer(self, verb: str, answer: Callable[[Any], Any]) -> None:
        """Answer one question more."""
        self._verbs[verb] = answer

    def ask(self, verb: str, question: Any = None, patience: float = PATIENCE,
            boots: Iterable[str] | None = None) -> Answers:
        """Ask this worker and all others, or those of `boots`.  While Redis is away the others cannot be asked: raises
        BrokerUnavailable."""
        asked = {*self._cluster.workers(), self.boot} if boots is None else set(boots)
        own: dict[str, Any] = {}

        def answer_myself() -> None:
            if self.boot in asked:
                own[self.boot] = self._verbs[verb](question)

        found = self._questions.ask(self.boot, asked - {self.boot}, verb, question, patience, answer_myself)
        found.by_boot.update(own)
        if found.missing:
            log.warning("%s: no answer from %s", verb, ", ".join(found.missing))
        return found

    def on_control(self, kind: str, argument: str) -> bool:
        """A control message; False when it is none of ours.  Never blocks."""
        if kind == ANSWER:
            self._questions.take(argument)
        elif kind == ASK:
            gevent.spawn(self._answer, strict_loads(argument))
        return kind in (ASK, ANSWER)

    def _answer(self, asked: dict[str, Any]) -> None:
        verb = self._verbs.get(asked["verb"])
        if verb is None:  # a newer worker, while the cluster is being renewed
            log.warning("%s asks for %s, which is not known here", asked["from"], asked["verb"])
            return
        try:
            self._cluster.send(asked["from"], answer(asked["id"], self.boot, verb(asked["question"])))
        except BrokerUnavailable as error:
            log.warning("an answer did not reach %s: %s", asked["from"], error)
