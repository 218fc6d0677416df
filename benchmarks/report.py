"""What is kept and shown: raw JSON, medians over the runs, a table, plots, a progress bar."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.targets import environment_note

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One target in one case of one run.  `figures` are numbers by name with the unit in the name."""

    scenario: str
    case: str
    target: str
    run: int
    figures: Mapping[str, float]
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Median:
    """The medians of one target in one case, with the lowest and highest of each."""

    scenario: str
    case: str
    target: str
    figures: dict[str, float]
    spread: dict[str, tuple[float, float]]


def medians(rows: Iterable[Row]) -> list[Median]:
    """By scenario, case and target, in order of appearance."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.scenario, row.case, row.target), []).append(row)
    result = []
    for (scenario, case, target), group in grouped.items():
        values = {name: [row.figures[name] for row in group if name in row.figures] for name in group[0].figures}
        result.append(Median(scenario, case, target, {name: statistics.median(v) for name, v in values.items()},
                             {name: (min(v), max(v)) for name, v in values.items()}))
    return result


def shown(value: float) -> str:
    """Three significant digits, or whole thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def table(results: Sequence[Median]) -> str:
    """One block per scenario; a column per figure."""
    blocks = []
    for scenario in dict.fromkeys(m.scenario for m in results):
        group = [m for m in results if m.scenario == scenario]
        names = list(dict.fromkeys(name for m in group for name in m.figures))
        cells = [["case", "target", *names]]
        cells += [[m.case, m.target, *(shown(m.figures[n]) if n in m.figures else "" for n in names)] for m in group]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(cell.ljust(w) if i < 2 else cell.rjust(w)
                           for i, (cell, w) in enumerate(zip(line, widths, strict=True))).rstrip() for line in cells]
        blocks.append("\n".join([f"## {scenario}", *lines]))
    return "\n\n".join(blocks)


def save(rows: Sequence[Row], arguments: Mapping[str, object], folder: Path = RESULTS) -> Path:
    """Write every row as `<date>.json` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y-%m-%dT%H%M%S')}.json"
    path.write_text(json.dumps({
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "environment": environment_note(),
        "arguments": dict(arguments),
        "rows": [{"scenario": r.scenario, "case": r.case, "target": r.target, "run": r.run,
                  "figures": dict(r.figures), "raw": dict(r.raw)} for r in rows],
        "medians": [{"scenario": m.scenario, "case": m.case, "target": m.target, "figures": m.figures,
                     "spread": m.spread} for m in medians(rows)],
    }, indent=1) + "\n")
    return path


# The figure that a scenario is judged by, for its plot.
HEADLINE = {"paced": "ratio", "saturated": "ratio", "rooms": "us/event", "lat200": "p99 ms", "idle": "PSS kB/conn",
            "emitter": "events/s", "nomember": "us/event", "slow": "RSS growth MB", "storm": "cpu us/conn",
            "deflate": "wire bytes/event", "artillery": "p95 ms"}


def plot(results: Sequence[Median], path: Path) -> Path | None:
    """One panel of bars per scenario with its range over the runs.  None when matplotlib is not installed or
    there is nothing to draw."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    scenarios = [s for s in dict.fromkeys(m.scenario for m in results) if s in HEADLINE]
    if not scenarios:
        return None
    columns = min(2, len(scenarios))
    lines = -(-len(scenarios) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(7 * columns, 3.6 * lines), squeeze=False)
    for axis in axes.flat[len(scenarios):]:
        axis.axis("off")
    for axis, scenario in zip(axes.flat, scenarios, strict=False):
        name = HEADLINE[scenario]
        group = [m for m in results if m.scenario == scenario and name in m.figures]
        heights = [m.figures[name] for m in group]
        errors = [[h - m.spread[name][0] for h, m in zip(heights, group, strict=True)],
                  [m.spread[name][1] - h for h, m in zip(heights, group, strict=True)]]
        targets = list(dict.fromkeys(m.target for m in results))
        colours = [f"C{targets.index(m.target)}" for m in group]
        axis.barh(range(len(group)), heights, xerr=errors, color=colours, height=0.7)
        axis.set_yticks(range(len(group)), [f"{m.case} {m.target}" for m in group], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"{scenario}: {name}", fontsize=10)
        for i, height in enumerate(heights):
            axis.annotate(f" {shown(height)}", (height, i), va="center", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


class Progress:
    """A bar on stderr: steps done, what is at work, time so far.  On no terminal: one line per step."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began = total, 0, time.monotonic()
        self.live = sys.stderr.isatty()

    def step(self, what: str) -> None:
        """One more step begins."""
        self.show(what)
        self.done = min(self.done + 1, self.total)

    def show(self, what: str) -> None:
        """Draw it."""
        filled = 30 * self.done // max(1, self.total)
        spent = time.monotonic() - self.began
        bar = f"[{'#' * filled}{'.' * (30 - filled)}] {self.done}/{self.total} {spent:4.0f} s  {what}"
        sys.stderr.write(f"\r{bar[:118]:<118}" if self.live else f"{bar}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        self.show("done")
        if self.live:
            sys.stderr.write("\n")
