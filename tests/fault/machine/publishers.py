"""Publishers of the machine: an Emitter beside the server, and the workers themselves over HTTP.

Each event has a token in its payload that no other has; what became of it goes into the truth.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from tests.fault.machine.oracle import Truth
from tests.harness import http
from wsapp import Emitter
from wsapp.core.ports import HistoryQuery, Receipt
from wsapp.errors import BrokerUnavailable

AGENTS: Final = 6
TASKS: Final = 4
PROJECTS: Final = 3
ROOMS: Final = (*(f"agent:a{n}" for n in range(AGENTS)), *(f"task:t{n}" for n in range(TASKS)),
                *(f"project:p{n}" for n in range(PROJECTS)))
AUDIT_EVERY: Final = 0.2  # seconds between two readings of all histories


class _Looping:
    """A thread that works until it is left; its failure is raised there."""

    def __init__(self, name: str) -> None:
        self.stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stopping.set()
        self._thread.join(60)
        if self._failure is not None and error is None:
            raise self._failure

    def _guarded(self) -> None:
        try:
            while not self.stopping.is_set():
                self.turn()
        except BaseException as failure:  # noqa: BLE001 - raised by whoever leaves
            self._failure = failure

    def turn(self) -> None:
        raise AssertionError("a loop without a turn")


def calls(chance: random.Random, tokens: Iterator[int]) -> Iterator[tuple[Any, ...]]:
    """What is published, endlessly: thoughts (some also to a project), task updates, project events, a quarter of those
    critical."""
    for token in tokens:
        kind = chance.random()
        if kind < 0.6:
            also = [f"project:p{chance.randrange(PROJECTS)}"] if chance.random() < 0.15 else []
            thought = {"agentId": f"a{chance.randrange(AGENTS)}", "thought": f"thought {token}", "k": token}
            yield "agent-thought", thought, {"also_to": also}
        elif kind < 0.8:
            yield "task-update", {"taskId": f"t{chance.randrange(TASKS)}", "status": "in_progress",
                                  "progress": token % 101, "k": token}, {}
        else:
            critical = chance.random() < 0.25
            yield ("project-event", f"p{chance.randrange(PROJECTS)}", "note",
                   {"k": token, "c": 1} if critical else {"k": token}, {"critical": critical})


def enter(truth: Truth, token: int, receipt: Receipt) -> None:
    truth.accepted(receipt.id, token, {place.room: (place.epoch, place.seq) for place in receipt.places})


class Outside(_Looping):
    """An Emitter that publishes `per_second` in small pipelines; what it is told was refused is nobody's loss."""

    def __init__(self, url: str, truth: Truth, tokens: Iterator[int], seed: int, per_second: float, batch: int) -> None:
        super().__init__("outside publisher")
        self._emitter = Emitter(url, timeout=1.0)
        self._truth, self._batch, self._pause = truth, batch, batch / per_second
        self._calls = calls(random.Random(f"{seed}/outside"), tokens)
        self.refused = 0
        self._due = 0.0

    def turn(self) -> None:
        wanted = list(itertools.islice(self._calls, self._batch))
        tokens = [_token(call) for call in wanted]
        self._truth.critical.update(token for token, call in zip(tokens, wanted, strict=True)
                                    if call[-1].get("critical"))
        try:
            for token, receipt in zip(tokens, self._emitter.publish_many(wanted), strict=True):
                enter(self._truth, token, receipt)
        except BrokerUnavailable as error:
            for token, receipt in zip(tokens, getattr(error, "receipts", []), strict=False):
                enter(self._truth, token, receipt)
            self.refused += self._batch
        now = time.monotonic()
        self._due = max(self._due + self._pause, now - 0.5)
        self.stopping.wait(max(0.0, self._due - now))


def _token(call: tuple[Any, ...]) -> int:
    return next(int(part["k"]) for part in call if isinstance(part, dict) and "k" in part)


class Inside(_Looping):
    """Publishes by the workers' own broadcast, through `POST /publish` of the host app."""

    def __init__(self, url: str, truth: Truth, tokens: Iterator[int], seed: int, per_second: float) -> None:
        super().__init__("inside publisher")
        self._url, self._truth, self._pause = url, truth, 1 / per_second
        self._calls = calls(random.Random(f"{seed}/inside"), tokens)
        self.statuses: Counter[str] = Counter()
        self.slowest = 0.0

    def turn(self) -> None:
        call = next(self._calls)
        if call[-1].get("critical"):
            self._truth.critical.add(_token(call))
        body = {"thought": call[1]} if call[0] == "agent-thought" else {"update": call[1]}
        if call[0] == "project-event":
            body = {"project": call[1], "event": call[2], "data": call[3]}
        body["options"] = call[-1]
        try:
            told = http(f"{self._url}/publish", json.dumps(body).encode(), timeout=8.0,
                        headers={"Content-Type": "application/json"}).json()
        except (OSError, ValueError, http_failures()):
            self.statuses["unanswered"] += 1
            self.stopping.wait(0.1)
            return
        self.statuses[told["status"]] += 1
        self.slowest = max(self.slowest, told["took"])
        if told["status"] == "queued":
            self._truth.promised(told["id"], _token(call), told["pid"], time.monotonic())
        self.stopping.wait(self._pause)


def http_failures() -> type[Exception]:
    from http.client import HTTPException

    return HTTPException


class Auditor(_Looping):
    """Reads every history again and again past all faults: what is recorded is published, whoever did it."""

    def __init__(self, url: str, truth: Truth, rooms: Sequence[str] = ROOMS) -> None:
        super().__init__("auditor")
        self._emitter = Emitter(url, timeout=1.0)
        self._truth = truth
        self._since: dict[str, tuple[str, int]] = dict.fromkeys(rooms, ("", 0))

    def turn(self) -> None:
        self.read()
        self.stopping.wait(AUDIT_EVERY)

    def read(self) -> bool:
        """One round over all rooms; False when Redis is away or more is to come."""
        queries = [HistoryQuery(room, self._since[room][1], 1000) for room in self._since]
        try:
            pages = self._emitter._backend.broker.read(queries)
        except BrokerUnavailable:
            return False
        done = True
        for page in pages:
            if page.head.epoch != self._since[page.room][0]:
                done = done and not page.head.epoch
                self._since[page.room] = (page.head.epoch, 0)
                continue
            for found in page.publications:
                token = json.loads(found.body)["k"]
                self._truth.accepted(found.id, token, {p.room: (p.epoch, p.seq) for p in found.places})
                self._truth.kept.add(found.id)
                self._since[page.room] = (page.head.epoch, found.seq(page.room))
            done = done and self._since[page.room][1] == page.head.seq
        return done
