"""paced and saturated: one room, many clients; CPU per delivery as a ratio to the C loop of the same run."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.scenarios.steady import Load, reference_window, window
from benchmarks.targets import Stage, reference, running

RATE = 10.0
WINDOW = 8  # events on the way at once when saturated


def cases(options: Options, scenario: str) -> list[Case]:
    """Every number of clients with every number of workers."""
    sizes = options.clients or (200, 1000, 5000)
    return [Case(f"{clients} clients, {workers}w", partial(_measure, options, scenario, clients, workers))
            for clients in sizes for workers in options.workers or (1, 2)]


def _measure(options: Options, scenario: str, clients: int, workers: int, stage: Stage, run: int) -> list[Row]:
    case = f"{clients} clients, {workers}w"
    frame = stage.folder / "frame"
    pace = {"rate": RATE} if scenario == "paced" else {"window": float(WINDOW)}
    load = Load(options.seconds, options.size, clients, pace=pace)
    # Waking an idle CPU costs a sender up to twice the send itself: a client that polls keeps that out of every
    # target's figure and out of the reference's, also when it is faster than a saturated server.
    spin = 1
    raws: dict[str, dict[str, Any]] = {}

    def serve(target: str) -> None:
        with (running(target, stage, workers, options.env) as server,
              LoadClient(stage.folder, server.port, clients, stage.page, capture=frame, spin=spin) as client):
            raws[target] = window(stage, target, server, client, load)

    def refer(name: str, join: int) -> None:
        with (reference(stage, workers, frame=frame, clients=clients, join=join, **pace) as server,
              LoadClient(stage.folder, server.port, clients, stage.page, spin=spin) as client):
            raws[name] = reference_window(stage, server, client, load)

    first, *peers = options.targets
    serve(first)
    # With the first target's frames, and right behind it: the mood of a shared machine changes by the minute.
    refer("reference", 1)
    if scenario == "saturated" and first == "wsapp":
        # wsapp sends a member in one piece what was published since it sent to it last; so does this reference.
        refer("reference, joined", _joined(raws[first]))
    for peer in peers:
        serve(peer)
    base = raws["reference"]["cpu"]["cpu"] / raws["reference"]["client"]["deliveries"]
    return [Row(scenario, case, target, run, _figures(raw, base), raw) for target, raw in raws.items()]


def _joined(raw: dict[str, Any]) -> int:
    """How many events came in one read, rounded."""
    client = raw["client"]
    together: float = client["deliveries"] / max(1, client["reads"])
    return max(1, min(WINDOW, round(together)))


def _figures(raw: dict[str, Any], base: float) -> dict[str, float]:
    client, cpu = raw["client"], raw["cpu"]
    each = cpu["cpu"] / max(1, client["deliveries"])
    return {"ratio": each / base, "us/delivery": each * 1e6, "deliveries/s": client["deliveries"] / raw["seconds"],
            "frame bytes": client["bytes"] / max(1, client["frames"]),
            "events/read": client["deliveries"] / max(1, client["reads"]), "p50 ms": client["latencyUs"]["p50"] / 1e3,
            "p99 ms": client["latencyUs"]["p99"] / 1e3, "missing": raw["expected"] - client["deliveries"],
            "kernel %": 100 * cpu["system"] / max(1e-9, cpu["cpu"])}
