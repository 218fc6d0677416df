"""artillery: 200 users of artillery/scenario.yml (engine socketio-v3); 100 events/s go to their rooms."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import Failed, Meter, Process
from benchmarks.publishing import Publisher
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.targets import Stage, running

HOME = Path(__file__).parent.parent / "artillery"
PROGRAM = HOME / "node_modules" / ".bin" / "artillery"
SECONDS = 33.0
QUIET = {"ARTILLERY_DISABLE_TELEMETRY": "true"}  # it would call home


def cases(options: Options, scenario: str) -> list[Case]:
    """By number of workers; wsapp only, since the peers do not know all verbs."""
    if "wsapp" not in options.targets or not PROGRAM.exists():
        return []
    return [Case(f"200 users, {workers}w", partial(_measure, options, scenario, workers))
            for workers in options.workers or (1, 2)]


def _measure(options: Options, scenario: str, workers: int, stage: Stage, run: int) -> list[Row]:
    # As it is by default: ten events a second for each user.
    with running("wsapp", stage, workers, {"MAX_EVENTS_PER_SEC": "10", **options.env}) as server:
        out = stage.folder / "artillery.json"
        command = [str(PROGRAM), "run", "-q", "-t", f"http://127.0.0.1:{server.port}", "-o", str(out), "scenario.yml"]
        meter = Meter(server.workers)
        with (Process("artillery", command, stage.folder / "artillery.log", env=QUIET, cwd=HOME) as artillery,
              Publisher(stage, "wsapp", seconds=SECONDS, rooms=20, rate=100.0) as publisher):
            told = publisher.done()
            artillery.popen.wait(60.0)
            cpu = meter.read()
            if not out.exists():
                raise Failed(f"Artillery ended with {artillery.popen.returncode}:\n{artillery.tail()}")
    raw: dict[str, Any] = {"report": json.loads(out.read_text())["aggregate"], "cpu": cpu, "published": told}
    if not raw["report"]["requestsCompleted"]:
        raise Failed(f"Artillery completed no request: {raw['report']['errors']}")
    return [Row(scenario, f"200 users, {workers}w", "wsapp", run, _figures(raw), raw)]


def _figures(raw: dict[str, Any]) -> dict[str, float]:
    report = raw["report"]
    return {"users": report["scenariosCreated"], "completed": report["scenariosCompleted"],
            "requests": report["requestsCompleted"], "errors": sum(report["errors"].values()),
            "median ms": report["latency"]["median"], "p95 ms": report["latency"]["p95"],
            "p99 ms": report["latency"]["p99"], "server cpu s": raw["cpu"]["cpu"]}
