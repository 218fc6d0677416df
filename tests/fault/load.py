"""A steady publisher beside a test, and the account of what its watchers saw."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.clients.recorder import Recorder
from tests.harness import Server, wait_until
from wsapp.errors import BrokerUnavailable


class Load:
    """Publishes numbered thoughts of one agent until it is left, by the Emitter or by a worker's own app.

    `ids` are those the publisher was promised, in order; `refused` counts those it was told were not published.
    """

    def __init__(self, server: Server, agent: str, per_second: float = 200.0, view: bool = False) -> None:
        self._server, self._agent, self._pause, self._view = server, agent, 1 / per_second, view
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._failure: BaseException | None = None
        self.ids: list[str] = []
        self.statuses: set[str] = set()
        self.refused = 0
        self.slowest = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                self._publish(f"thought {number}")
                number += 1
                time.sleep(self._pause)
        except BaseException as failure:  # noqa: BLE001 - told in the test's own thread
            self._failure = failure

    def _publish(self, text: str) -> None:
        thought = {"agentId": self._agent, "thought": text}
        if self._view:
            receipt = self._server.post("/publish", {"thought": thought}).json()
            self.ids.append(receipt["id"])
            self.statuses.add(receipt["status"])
            self.slowest = max(self.slowest, receipt["took"])
            return
        try:
            self.ids.append(self._server.emitter.broadcast_agent_thought(thought).id)
        except BrokerUnavailable:
            self.refused += 1

    def more(self, count: int) -> None:
        """Wait until `count` more are published."""
        goal = len(self.ids) + count
        wait_until(lambda: len(self.ids) >= goal or self._failure, f"{count} more published", step=0.005)


def account(clients: Sequence[Recorder], load: Load, timeout: float = 60.0) -> None:
    """The oracle: every watcher has every promised event, in order, once after dedupe by id."""
    assert load.ids
    for client in clients:
        client.wait_ids(load.ids, timeout=timeout)
