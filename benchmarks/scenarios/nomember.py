"""nomember: two workers with clients, one member of a busy room; what the worker WITHOUT it pays for each event."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.machine import Meter
from benchmarks.publishing import publish
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.targets import Stage, Target, running

RATE = 1000.0
CLIENTS = 20  # one of them in the busy room; the others see to it that both workers have clients


def cases(options: Options, scenario: str) -> list[Case]:
    """One case."""
    return [Case("1000 events/s", partial(_measure, options, scenario))]


def _measure(options: Options, scenario: str, stage: Stage, run: int) -> list[Row]:
    rows = []
    for target in options.targets:
        with running(target, stage, 2, options.env) as server:
            raw = _one(options, stage, target, server)
        rows.append(Row(scenario, "1000 events/s", target, run, _figures(raw), raw))
    return rows


def _one(options: Options, stage: Stage, target: str, server: Target) -> dict[str, Any]:
    with LoadClient(stage.folder, server.port, CLIENTS, stage.page, rooms=CLIENTS) as client:
        client.ready()
        publish(stage, target, seconds=1.0, size=options.size, rate=RATE)
        time.sleep(1.0)
        meter = Meter(server.workers)
        time.sleep(options.seconds)
        idle = meter.read()
        meter.start()
        told = publish(stage, target, seconds=options.seconds, size=options.size, rate=RATE)
        busy = meter.read()
    return {"idle": idle, "busy": busy, "published": told}


def _figures(raw: dict[str, Any]) -> dict[str, float]:
    """Above what it costs idle in as much time.  The member's worker is the one that worked more."""
    stretch = raw["busy"]["seconds"] / raw["idle"]["seconds"]
    each = sorted(busy - idle * stretch for busy, idle in zip(raw["busy"]["each"], raw["idle"]["each"], strict=True))
    events = raw["published"]["published"]
    return {"us/event": each[0] / events * 1e6, "member's us/event": each[-1] / events * 1e6}
