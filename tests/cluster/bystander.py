"""Somebody who is served as ever while another misbehaves."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.clients.fleet import Fleet
from tests.clients.recorder import Recorder
from tests.harness import Server, wait_until
from tests.tokens import auth

TYPICAL = 0.1  # seconds: the bound, held by the median
WORST = 1.0  # seconds: the machine that tests run on is shared


class Bystander:
    """Echoes all the time on a thread of its own, and notes how long each took."""

    def __init__(self, client: Recorder) -> None:
        self.client, self.took = client, list[float]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._echo, daemon=True)
        self._thread.start()

    def _echo(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            began = time.monotonic()
            if self.client.request("host-echo", number) == number:
                self.took.append(time.monotonic() - began)
            time.sleep(0.01)

    def check(self, worst: float) -> None:
        wait_until(lambda: len(self.took) >= 5, "the bystander to be served")
        self._over.set()
        self._thread.join(30)
        assert statistics.median(self.took) < TYPICAL
        assert max(self.took) < worst
        assert not self.client.all("disconnect")


@contextmanager
def undisturbed(server: Server, fleet: Fleet, grows: float = 40e6, worst: float = WORST) -> Iterator[None]:
    """Somebody is served as ever meanwhile, and no worker grows by more than `grows` bytes."""
    with flat(server, grows):
        bystander = Bystander(fleet.npm(server, auth=auth("bystander")))
        yield
        bystander.check(worst)


@contextmanager
def flat(server: Server, grows: float) -> Iterator[None]:
    """No worker grows by more than `grows` bytes."""
    before = memory(server)
    yield
    assert memory(server) - before < grows


def memory(server: Server) -> int:
    """The resident bytes of the largest worker."""
    return max(int(psutil.Process(pid).memory_info().rss) for pid in server.worker_pids())


def counted(server: Server, name: str) -> int:
    return int(server.get("/worker").json()[name])
