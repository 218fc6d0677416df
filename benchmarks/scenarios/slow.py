"""slow: five clients stop reading while 48 MB are published to their room; what it costs the server and the others."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.machine import memory
from benchmarks.publishing import Publisher, publish
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.targets import Stage, Target, running

SILENT, READING, ECHOING = 5, 5, 20
SIZE, FLOOD = 16_000, 48_000_000


def cases(options: Options, scenario: str) -> list[Case]:
    """One case."""
    return [Case("48 MB", partial(_measure, options, scenario))]


def _measure(options: Options, scenario: str, stage: Stage, run: int) -> list[Row]:
    rows = []
    for target in options.targets:
        with running(target, stage, 1, options.env) as server:
            raw = _one(options, stage, target, server)
        rows.append(Row(scenario, "48 MB", target, run, _figures(raw), raw))
    return rows


def _one(options: Options, stage: Stage, target: str, server: Target) -> dict[str, Any]:
    with (LoadClient(stage.folder, server.port, SILENT) as silent,
          LoadClient(stage.folder, server.port, READING, stage.page) as reading,
          LoadClient(stage.folder, server.port, ECHOING, first=2) as echoing):
        for client in (silent, reading, echoing):
            client.ready()
        publish(stage, target, seconds=2.0, size=SIZE, rate=100.0)
        silent.mute(SILENT)
        for client in (reading, echoing):
            client.reset()
        echoing.echo(10)
        samples = [memory(server.workers[0])["rss"]]
        rate = FLOOD / SIZE / options.seconds
        with Publisher(stage, target, seconds=options.seconds, size=SIZE, rate=rate) as publisher:
            while publisher.popen.poll() is None:
                samples.append(memory(server.workers[0])["rss"])
                time.sleep(0.05)
            told = publisher.done()
        report = reading.settle(told["published"] * READING)
        echo = echoing.report()
        silent.unmute()
        time.sleep(1.0)
        return {"rss": samples, "published": told, "reading": report, "echo": echo, "silent": silent.report()}


def _figures(raw: dict[str, Any]) -> dict[str, float]:
    return {"RSS growth MB": (max(raw["rss"]) - raw["rss"][0]) / 1e6,
            "flood MB": raw["published"]["published"] * SIZE / 1e6, "silent cut": raw["silent"]["closed"],
            "told code": float(max((int(code) for code in raw["silent"]["closeCodes"]), default=0)),
            "readers missing": raw["published"]["published"] * READING - raw["reading"]["deliveries"],
            "echo p99 ms": raw["echo"]["echoUs"]["p99"] / 1e3,
            "echo max ms": max(raw["echo"]["echoUs"]["max"], raw["echo"]["echoWaitingUs"]) / 1e3}
