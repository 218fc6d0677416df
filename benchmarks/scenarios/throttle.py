"""throttle: 200 users of one room, limit 10 events/s each, 100 or 1000 events/s published.

The throttle at its work: nearly every event is over the rate of every user.  Beside the CPU of the worker per user and
published event, the longest wait of `/healthz` says whether anything else still gets its turn.
"""

from __future__ import annotations

import http.client
import threading
import time
from functools import partial

from benchmarks.load import LoadClient
from benchmarks.machine import Meter, memory
from benchmarks.publishing import publish
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.scenarios.steady import FOREVER, place_client
from benchmarks.targets import Stage, running

USERS = 200
RATES = (100, 1000)
LIMIT = "10"
PAUSE_S = 0.05  # between two requests of /healthz


class Prober(threading.Thread):
    """Asks for `/healthz` again and again; `longest` is the longest wait in seconds."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port, self._over = port, threading.Event()
        self.longest = 0.0

    def run(self) -> None:
        while not self._over.wait(PAUSE_S):
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            connection.close()
            self.longest = max(self.longest, time.monotonic() - began)

    def end(self) -> float:
        """Stop; the longest wait."""
        self._over.set()
        self.join()
        return self.longest


def cases(options: Options, scenario: str) -> list[Case]:
    """One case for each rate."""
    return [Case(f"{rate}/s", partial(_measure, options, scenario, rate)) for rate in RATES]


def _measure(options: Options, scenario: str, rate: int, stage: Stage, run: int) -> list[Row]:
    env = {**options.env, "MAX_EVENTS_PER_SEC": LIMIT}
    with running("wsapp", stage, 1, env) as server, LoadClient(stage.folder, server.port, USERS, stage.page) as client:
        place_client(client, 1)
        client.ready()
        publish(stage, "wsapp", seconds=1.0, rooms=1, size=options.size, rate=float(rate))
        client.settle(FOREVER, timeout=2.0)
        client.reset()
        before, prober, meter = memory(server.workers[0])["rss"], Prober(server.port), Meter(server.workers)
        prober.start()
        told = publish(stage, "wsapp", seconds=options.seconds, rooms=1, size=options.size, rate=float(rate))
        cpu = meter.read()
        wait = prober.end()
        report = client.settle(FOREVER, timeout=2.0)
        grown = memory(server.workers[0])["rss"] - before
    figures = {"us/user+event": cpu["cpu"] / max(1, told["published"]) / USERS * 1e6,
               "core %": 100 * cpu["cpu"] / told["seconds"], "events/s": told["published"] / told["seconds"],
               "p50 ms": report["latencyUs"]["p50"] / 1e3, "p99 ms": report["latencyUs"]["p99"] / 1e3,
               "healthz max ms": wait * 1e3, "RSS +MB": grown / 1e6}
    return [Row(scenario, f"{rate}/s", "wsapp", run, figures, {"client": report, "cpu": cpu, "published": told})]
