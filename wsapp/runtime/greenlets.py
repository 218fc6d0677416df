"""The background greenlets of a worker: named, restarted when they fail, stopped together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, ParamSpec

import gevent
from gevent import monkey

log = logging.getLogger(__name__)

P = ParamSpec("P")

RESTART_PAUSE: Final = 0.5  # seconds


def on_the_hub(call: Callable[P, None]) -> Callable[P, None]:
    """A function for other threads to call in place of `call`, which then runs in this thread's event loop, in order.
    In a patched process it is `call` itself, since threads are greenlets there; only tests run unpatched."""
    if monkey.is_module_patched("threading"):
        return call
    loop, home = gevent.get_hub().loop, threading.get_ident()

    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        if threading.get_ident() == home:
            call(*args, **kwargs)
        else:
            loop.run_callback_threadsafe(partial(call, *args, **kwargs))
    return called


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
