"""rooms and lat200: 200 users, each in a room of its own at 1000 events/s, or all in one room at 10 events/s.

Two references: the C loop by itself (`C loop`), and the C loop behind the same publisher and Redis (`C loop, redis`),
since a latency from publish to socket can only be compared over the same path.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.machine import memory
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.scenarios.steady import Load, reference_window, window
from benchmarks.targets import Stage, reference, running

USERS = 200
OWN_ROOMS, ONE_ROOM = "200 rooms, 1000/s", "1 room, 10/s"


def cases(options: Options, scenario: str) -> list[Case]:
    """`rooms` counts CPU per event, `lat200` latency and memory; both shapes for the second."""
    shapes = (OWN_ROOMS,) if scenario == "rooms" else (OWN_ROOMS, ONE_ROOM)
    default = (1, 2) if scenario == "rooms" else (1,)
    return [Case(f"{shape}, {workers}w", partial(_measure, options, scenario, shape, workers))
            for shape in shapes for workers in options.workers or default]


def _load(options: Options, shape: str) -> Load:
    if shape == OWN_ROOMS:
        return Load(options.seconds, options.size, members=1, rooms=USERS, pace={"rate": 1000.0})
    return Load(options.seconds, options.size, members=USERS)


def _measure(options: Options, scenario: str, shape: str, workers: int, stage: Stage, run: int) -> list[Row]:
    load = _load(options, shape)
    frame = stage.folder / "frame"
    raws: dict[str, dict[str, Any]] = {}
    for target in options.targets:
        with (running(target, stage, workers, options.env) as server,
              LoadClient(stage.folder, server.port, USERS, stage.page, rooms=load.rooms, capture=frame) as client):
            raws[target] = window(stage, target, server, client, load)
            raws[target]["memory"] = [memory(pid) for pid in server.workers]
    if frame.exists():
        rate = load.pace["rate"]
        with (reference(stage, workers, frame=frame, clients=USERS, rooms=load.rooms, rate=rate) as server,
              LoadClient(stage.folder, server.port, USERS, stage.page, rooms=load.rooms) as client):
            raws["C loop"] = reference_window(stage, server, client, load)
    with (reference(stage, workers, feed="redis", clients=USERS) as server,
          LoadClient(stage.folder, server.port, USERS, stage.page, rooms=load.rooms) as client):
        raws["C loop, redis"] = window(stage, "reference", server, client, load)
    figures = _cost if scenario == "rooms" else _latency
    return [Row(scenario, f"{shape}, {workers}w", name, run, figures(raw, load, raws), raw)
            for name, raw in raws.items()]


def _cost(raw: dict[str, Any], load: Load, _raws: dict[str, Any]) -> dict[str, float]:
    events = max(1, raw["client"]["deliveries"] / load.members)
    return {"us/event": raw["cpu"]["cpu"] / events * 1e6, "events/s": events / raw["seconds"],
            "p50 ms": raw["client"]["latencyUs"]["p50"] / 1e3, "p99 ms": raw["client"]["latencyUs"]["p99"] / 1e3,
            "kernel %": 100 * raw["cpu"]["system"] / max(1e-9, raw["cpu"]["cpu"]),
            "missing": raw["expected"] - raw["client"]["deliveries"]}


def _latency(raw: dict[str, Any], load: Load, raws: dict[str, Any]) -> dict[str, float]:
    times = raw["client"]["latencyUs"]
    figures = {f"{p} ms": times[p] / 1e3 for p in ("p50", "p95", "p99", "max")}
    for name in ("C loop", "C loop, redis"):
        if name in raws:
            figures[f"p99 / {name}"] = times["p99"] / max(1e-9, raws[name]["client"]["latencyUs"]["p99"])
    figures["events/s"] = raw["client"]["deliveries"] / load.members / raw["seconds"]
    figures["missing"] = raw["expected"] - raw["client"]["deliveries"]
    if "memory" in raw:
        figures["worker RSS MB"] = max(sizes["rss"] for sizes in raw["memory"]) / 1e6
    return figures
