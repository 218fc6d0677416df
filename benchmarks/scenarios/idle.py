"""idle: 5000 connections that do nothing.  PSS per connection, CPU per connect, CPU of one ping interval."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.machine import Meter, memory
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.scenarios.steady import place_client
from benchmarks.targets import Stage, Target, running

CLIENTS = 5000
PING_INTERVAL = 10.0  # seconds; the same for every target, and held for as long
SUBSCRIBE = '420["subscribe-agent","a%d"]'


def cases(options: Options, scenario: str) -> list[Case]:
    """Connections in no room, and each in a room (50 rooms)."""
    return [Case(f"{clients} {kind}", partial(_measure, options, scenario, clients, kind))
            for clients in options.clients or (CLIENTS,) for kind in ("connected", "subscribed")]


def _measure(options: Options, scenario: str, clients: int, kind: str, stage: Stage, run: int) -> list[Row]:
    rows = []
    for target in options.targets:
        env = {"PING_INTERVAL": str(int(PING_INTERVAL * 1000)), **options.env}
        with running(target, stage, 1, env) as server:
            raw = _one(stage, server, clients, SUBSCRIBE if kind == "subscribed" else "")
        rows.append(Row(scenario, f"{clients} {kind}", target, run, _figures(raw, clients), raw))
    return rows


def _one(stage: Stage, server: Target, clients: int, template: str) -> dict[str, Any]:
    told: dict[str, Any] = {"template": template, "rooms": 50}
    with LoadClient(stage.folder, server.port, 50, **told) as first:  # what is loaded and made lazily is not counted
        first.ready()
    time.sleep(0.5)
    before = memory(server.workers[0])
    meter = Meter(server.workers)
    with LoadClient(stage.folder, server.port, clients, **told) as client:
        place_client(client, 1)
        ready = client.ready(timeout=120.0)
        connect = meter.read()
        time.sleep(1.0)
        client.reset()
        meter.start()
        time.sleep(PING_INTERVAL)
        hold = meter.read()
        after = memory(server.workers[0])
        report = client.report()
    return {"ready": ready, "before": before, "after": after, "connect": connect, "hold": hold, "client": report}


def _figures(raw: dict[str, Any], clients: int) -> dict[str, float]:
    return {"PSS kB/conn": (raw["after"]["pss"] - raw["before"]["pss"]) / clients / 1000,
            "worker PSS MB": raw["after"]["pss"] / 1e6, "us/connect": raw["connect"]["cpu"] / clients * 1e6,
            "connects/s": clients / raw["ready"]["seconds"],
            "us/ping": raw["hold"]["cpu"] / max(1, raw["client"]["pings"]) * 1e6,
            "pings": raw["client"]["pings"], "lost": raw["client"]["closed"]}
