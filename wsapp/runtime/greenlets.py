"""The background greenlets of a worker: named, restarted when they fail, stopped together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import gevent

log = logging.getLogger(__name__)

RESTART_PAUSE: Final = 0.5  # seconds


class Greenlets:
    """A set of loops that run until `stop`."""

    def __init__(self) -> None:
        self._running: list[gevent.Greenlet] = []

    def run(self, name: str, loop: Callable[[], None]) -> None:
        """Run a loop that is not meant to end; an error is logged and the loop begun again."""
        self._running.append(gevent.spawn(self._supervise, name, loop))

    def every(self, name: str, interval: float, task: Callable[[], object]) -> None:
        """Run a task every `interval` seconds; an error is logged and costs that turn only."""

        def loop() -> None:
            while True:
                gevent.sleep(interval)
                task()

        self.run(name, loop)

    def adopt(self, greenlets: list[gevent.Greenlet]) -> None:
        """Stop these too."""
        self._running += greenlets

    def stop(self) -> None:
        """End all; idempotent."""
        gevent.killall(self._running, timeout=1.0)
        self._running.clear()

    def _supervise(self, name: str, loop: Callable[[], None]) -> None:
        while True:
            try:
                loop()
            except Exception:
                log.exception("%s failed and is started again", name)
            gevent.sleep(RESTART_PAUSE)
