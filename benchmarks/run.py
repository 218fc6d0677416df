"""`python -m benchmarks.run [scenario ...]`: run scenarios, keep the raw JSON, print a table, draw plots."""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import Failed
from benchmarks.report import RESULTS, Progress, Row, medians, plot, save, table
from benchmarks.scenarios import Case, Options
from benchmarks.targets import STARTERS, available, staged

# The module of each scenario.
SCENARIOS = {"paced": "fanout", "saturated": "fanout", "rooms": "users", "lat200": "users", "idle": "idle",
             "emitter": "emitter", "nomember": "nomember", "slow": "slow", "storm": "storm", "joins": "rooms",
             "deflate": "deflate", "throttle": "throttle", "artillery": "artillery", "forwarded": "forwarded",
             "rolling": "rolling"}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; none: all")
    parser.add_argument("--targets", default="wsapp,node,stock", help="comma list of wsapp, node, stock")
    parser.add_argument("--clients", default="", help="comma list; default: the scenario's own")
    parser.add_argument("--workers", default="", help="comma list; default: the scenario's own")
    parser.add_argument("--runs", type=int, default=3, help="of every case; the table has their medians")
    parser.add_argument("--quick", action="store_true", help="one short run, 1000 clients, one worker: some minutes")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each steady window")
    parser.add_argument("--size", type=int, default=200, help="characters of a thought")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the servers")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON and the plots")
    given = parser.parse_args(argv)
    if given.quick:
        given.runs, given.seconds = 1, 3.0
        given.clients, given.workers = given.clients or "1000", given.workers or "1"
    for name in given.scenarios:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name}")
    return given


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _options(given: argparse.Namespace) -> Options:
    wanted = [name for name in given.targets.split(",") if name]
    for name in wanted:
        if name not in STARTERS:
            raise Failed(f"no target {name}")
        if not available(name):
            print(f"{name} is not installed here and left out", file=sys.stderr)
    return Options(targets=[name for name in wanted if available(name)], clients=_numbers(given.clients),
                   workers=_numbers(given.workers), seconds=given.seconds, size=given.size,
                   env=dict(pair.split("=", 1) for pair in given.env))


def collect(names: list[str], options: Options) -> list[Case]:
    """The cases of the scenarios, in order."""
    found = []
    for name in names:
        module = importlib.import_module(f"benchmarks.scenarios.{SCENARIOS[name]}")
        found += [Case(f"{name}: {case.name}", case.measure) for case in module.cases(options, name)]
    return found


def carry_out(cases: list[Case], runs: int) -> tuple[list[Row], list[str]]:
    """Every case in every run; one that fails is told and the others go on."""
    rows: list[Row] = []
    failures: list[str] = []
    progress = Progress(len(cases) * runs)
    for run in range(1, runs + 1):
        for case in cases:
            progress.step(f"run {run}: {case.name}")
            try:
                with tempfile.TemporaryDirectory(prefix="wsapp-bench-") as folder, staged(Path(folder)) as stage:
                    rows += case.measure(stage, run)
            except Failed as failure:
                failures.append(f"{case.name}, run {run}: {failure}")
    progress.end()
    return rows, failures


def main(argv: list[str] | None = None) -> int:
    """Returns 1 when a case failed."""
    given = arguments(argv)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cases = collect(given.scenarios or list(SCENARIOS), _options(given))
    rows, failures = carry_out(cases, given.runs)
    if rows:
        results = medians(rows)
        path = save(rows, {name: str(value) for name, value in vars(given).items() if name != "out"}, given.out)
        print(table(results))
        print(f"\nraw: {path}")
        drawn = plot(results, path.with_suffix(".png"))
        print(f"plots: {drawn or 'none (matplotlib is not installed)'}")
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
