"""storm: 1000 clients are cut at once and come back at once, as new ones and (wsapp) with their session."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.machine import Meter
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.scenarios.steady import place_client
from benchmarks.targets import Stage, running

CLIENTS = 1000


def cases(options: Options, scenario: str) -> list[Case]:
    """By number of clients and workers."""
    return [Case(f"{clients} clients, {workers}w", partial(_measure, options, scenario, clients, workers))
            for clients in options.clients or (CLIENTS,) for workers in options.workers or (1, 2)]


def _measure(options: Options, scenario: str, clients: int, workers: int, stage: Stage, run: int) -> list[Row]:
    rows = []
    for target in options.targets:
        for resume in (False, True) if target == "wsapp" else (False,):
            raw = _one(options, stage, target, clients, workers, resume)
            name = f"{target}, resumed" if resume else target
            rows.append(Row(scenario, f"{clients} clients, {workers}w", name, run, _figures(raw, clients), raw))
    return rows


def _one(options: Options, stage: Stage, target: str, clients: int, workers: int, resume: bool) -> dict[str, Any]:
    with (running(target, stage, workers, options.env) as server,
          LoadClient(stage.folder, server.port, clients, inflight=256) as client):
        place_client(client, workers)
        first = client.ready()
        time.sleep(0.5)
        client.reset()
        meter = Meter(server.workers)
        back = client.storm(resume)
        time.sleep(0.5)  # the goodbyes of the old connections count too
        return {"first": first, "back": back, "cpu": meter.read(), "client": client.report()}


def _figures(raw: dict[str, Any], clients: int) -> dict[str, float]:
    return {"seconds": raw["back"]["seconds"], "cpu us/conn": raw["cpu"]["cpu"] / clients * 1e6,
            "p50 ms": raw["back"]["connectUs"]["p50"] / 1e3, "p99 ms": raw["back"]["connectUs"]["p99"] / 1e3,
            "retries": raw["back"]["retries"], "recovered": raw["client"]["recovered"]}
