"""One steady window: warm up, zero everything, publish, wait for what was published, read the meters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.machine import CPUS, Meter, pin
from benchmarks.publishing import publish
from benchmarks.targets import Stage, Target, others

FOREVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Load:
    """What is published: `members` clients get each event, `rooms` rooms take turns."""

    seconds: float
    size: int
    members: int
    rooms: int = 1
    pace: dict[str, float] = field(default_factory=lambda: {"rate": 10.0})


def place_client(client: LoadClient, workers: int) -> None:
    """Away from the worker where there is one; two workers share their CPUs with it."""
    pin([client.pid], others() if workers == 1 else CPUS)


def window(stage: Stage, target: str, server: Target, client: LoadClient, load: Load,
           pids: Sequence[int] | None = None) -> dict[str, Any]:
    """Publish for the target and measure.  `{ready, client, cpu, seconds, expected}`."""
    place_client(client, len(server.workers))
    ready = client.ready()
    plan = {"rooms": load.rooms, "size": load.size, **load.pace}
    if "window" in plan:
        plan["members"] = load.members
    warm = publish(stage, target, seconds=1.0, **plan)
    client.settle(warm["published"] * load.members)
    client.reset()
    meter = Meter(pids or server.workers)
    told = publish(stage, target, seconds=load.seconds, **plan)
    report = client.settle(told["published"] * load.members)
    return {"ready": ready, "client": report, "cpu": meter.read(), "seconds": told["seconds"], "published": told,
            "expected": told["published"] * load.members}


def reference_window(stage: Stage, server: Target, client: LoadClient, load: Load) -> dict[str, Any]:
    """The same for the reference loop, which paces itself."""
    place_client(client, len(server.workers))
    ready = client.ready()
    stage.page.run_reference(1.0)
    client.settle(FOREVER, timeout=2.0)
    stage.page.rest_reference()
    client.reset()
    meter = Meter(server.workers)
    stage.page.run_reference(load.seconds)
    report = client.settle(FOREVER, timeout=3.0)
    return {"ready": ready, "client": report, "cpu": meter.read(), "seconds": load.seconds,
            "expected": report["deliveries"]}
