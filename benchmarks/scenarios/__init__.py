"""The scenarios.  Each module has `cases(options)`, and a case is one measurement of one target in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.report import Row
from benchmarks.targets import Stage


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose.  Empty sequences mean the scenario's own choice."""

    targets: Sequence[str]
    clients: Sequence[int] = ()
    workers: Sequence[int] = ()
    seconds: float = 10.0
    size: int = 200
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One step: `measure(stage, run)` returns its rows."""

    name: str
    measure: Callable[[Stage, int], Sequence[Row]]
