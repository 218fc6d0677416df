"""deflate: what permessage-deflate saves on the wire and costs, by size of the event, and for throttled batches."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.scenarios.steady import Load, window
from benchmarks.targets import Stage, running

CLIENTS = 200
SWITCH = {"wsapp": {"WSAPP_DEFLATE": "on"}, "node": {"DEFLATE": "1"}}
BATCHES = "batches"


def cases(options: Options, scenario: str) -> list[Case]:
    """Three sizes, and batches of what exceeds 10 events/s."""
    return [Case(str(kind), partial(_measure, options, scenario, kind)) for kind in (300, 2000, 16000, BATCHES)]


def _measure(options: Options, scenario: str, kind: int | str, stage: Stage, run: int) -> list[Row]:
    rows = []
    for target in options.targets:
        if target not in SWITCH or (kind == BATCHES and target != "wsapp"):
            continue
        raws = [_one(options, stage, target, kind, on) for on in (False, True)]
        names = (target, f"{target}, deflate")
        case = BATCHES if kind == BATCHES else f"{kind} B"
        rows += [Row(scenario, case, name, run, _figures(raw, raws[0]), raw)
                 for name, raw in zip(names, raws, strict=True)]
    return rows


def _one(options: Options, stage: Stage, target: str, kind: int | str, on: bool) -> dict[str, Any]:
    env = {**(SWITCH[target] if on else {}), **options.env}
    load = Load(min(options.seconds, 5.0), 300 if kind == BATCHES else int(kind), CLIENTS)
    if kind == BATCHES:
        env["MAX_EVENTS_PER_SEC"] = "10"
        load.pace["rate"] = 100.0
    with (running(target, stage, 1, env) as server,
          LoadClient(stage.folder, server.port, CLIENTS, stage.page, deflate=int(on)) as client):
        return window(stage, target, server, client, load)


def _figures(raw: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    def wire(which: dict[str, Any]) -> float:
        return float(which["client"]["bytes"] / max(1, which["client"]["deliveries"]))

    return {"wire bytes/event": wire(raw), "saved %": 100 * (1 - wire(raw) / wire(plain)),
            "us/delivery": raw["cpu"]["cpu"] / max(1, raw["client"]["deliveries"]) * 1e6,
            "events/frame": raw["client"]["deliveries"] / max(1, raw["client"]["frames"]),
            "compressed frames": raw["client"]["compressed"],
            "missing": raw["expected"] - raw["client"]["deliveries"]}
