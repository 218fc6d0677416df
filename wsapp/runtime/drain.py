"""The way of a worker out of service and back: on SIGTERM, and when an operator says so.

A worker that an operator has drained stays as it is, without clients and not ready, until it is told to `undo` or
ends; why: docs/decisions/018-drained-until-undone.md.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import gevent

from wsapp.runtime.lifecycle import Lifecycle
from wsapp.settings import Settings
from wsapp.transport.engine import Engine

log = logging.getLogger(__name__)

VERB: Final = "drain"
FETCH_LOOK: Final = 0.02  # seconds between looks whether polling clients have fetched their last words


class Service(StrEnum):
    """Where a worker stands."""

    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"


class Drain:
    """One worker's.  `cut` ends the connections that are left after all."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle, engine: Engine, cut: Callable[[], None]) -> None:
        self._settings, self._lifecycle, self._engine, self._cut = settings, lifecycle, engine, cut
        self._running: gevent.Greenlet | None = None
        self._began, self._told, self.took = 0.0, 0, 0.0
        self.state, self._ending = Service.SERVING, False
        self.server = f"{socket.gethostname()}:{settings.websocket_port}"

    def run(self, timeout: float, over: float | None = None) -> None:
        """Take no more, and say goodbye to everybody within `timeout` seconds; one that is under way is taken over,
        whoever is left is told his new slot.  It cannot be undone: the process ends."""
        self._ending = True
        self._stop()
        self._enter(Service.DRAINING)
        deadline = time.monotonic() + timeout
        self._lifecycle.drain(timeout, over)
        while self._engine.polled and time.monotonic() < deadline:
            gevent.sleep(FETCH_LOOK)  # one between two polls is told with its next
        self._done()

    def answer(self, asked: dict[str, Any]) -> dict[str, object]:
        """The verb `drain`: `{do: "begin" | "undo" | "tell", over?}` (seconds) to how this worker stands.  To begin
        again changes nothing."""
        if asked["do"] == "begin" and self.state is Service.SERVING:
            over = asked.get("over")
            self._enter(Service.DRAINING)
            self._running = gevent.spawn(self._say_goodbye, over)
        elif asked["do"] == "undo":
            self.undo()
        return self.report()

    def undo(self) -> None:
        """Take clients again.  Those that have been told to leave and are still there stay."""
        if self.state is not Service.SERVING and not self._ending:
            self._stop()
            self._enter(Service.SERVING)
            log.info("taking clients again")

    def report(self) -> dict[str, object]:
        """`{server, pid, state, clients, told, took}`: how many there are, how many there were, seconds."""
        took = time.monotonic() - self._began if self.state is Service.DRAINING else self.took
        return {"server": self.server, "pid": os.getpid(), "state": str(self.state),
                "clients": self._lifecycle.connections.get_connection_count(), "told": self._told,
                "took": round(took, 3)}

    def _say_goodbye(self, over: float | None) -> None:
        timeout = self._settings.drain_timeout
        self._lifecycle.drain(timeout if over is None else timeout + over, over)
        if self._lifecycle.connections.get_connection_count():
            log.warning("%d clients did not leave in time and are cut off",
                        self._lifecycle.connections.get_connection_count())
        self._cut()
        self._done()

    def _enter(self, state: Service) -> None:
        self.state = state
        self._engine.draining = state is not Service.SERVING
        if state is Service.DRAINING:
            self._began, self._told = time.monotonic(), self._lifecycle.connections.get_connection_count()
            log.info("draining: %d clients are told to come back elsewhere", self._told)

    def _done(self) -> None:
        self.took = time.monotonic() - self._began
        self.state = Service.DRAINED

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.kill()
