"""One run: the schedule's faults on the stage, bounded by time or deliveries, and its report."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from typing import Final

from tests.fault.machine.oracle import Account
from tests.fault.machine.schedule import LANES, Fault, lanes
from tests.fault.machine.stage import Stage

LONGEST: Final = 3600.0
STEP: Final = 0.02


@dataclass
class Report:
    """What came out.  `lasted` in seconds, without settling; `took` with it."""

    seed: int
    lasted: float
    took: float
    per_second: float
    account: Account
    stage: Stage

    @property
    def sound(self) -> bool:
        return not self.account.problems

    def lines(self, most: int = 40) -> list[str]:
        """A table as docs/reliability.md has it, then what is unexplained or wrong."""
        rows = [self._run(), self._deliveries(), self._faults(), self._sessions(), self._fates(), self._queued(),
                ("unexplained, lost, doubled, out of order", str(len(self.account.problems)))]
        return [(f"`--seed {self.seed} --seconds {self.lasted:.0f} --watchers {self.stage.count} "
                f"--rate {self.per_second:g}`"), "", "| | |", "|---|---|",
                *(f"| {name} | {figures} |" for name, figures in rows), *self.account.problems[:most]]

    def _run(self) -> tuple[str, str]:
        views = self.stage.views
        return "run", (f"{self.took:.0f} s with settling; 2 workers, {len(views)} watchers, "
                       f"{sum(view.throttled for view in views)} of them throttled, and "
                       f"{sum(len(view.twins) for view in views)} twins for a while")

    def _deliveries(self) -> tuple[str, str]:
        counts = self.account.counts
        return ("published, delivered, sent again after returns",
                (f"{_number(counts['published'])} · {_number(counts['delivered'])} · {_number(counts['repeats'])} "
                f"({_number(counts['deliveries'])} deliveries in all)"))

    def _faults(self) -> tuple[str, str]:
        happened = self.stage.faults
        parts = [", ".join(f"{kind.replace('_', ' ')} {happened[kind]}" for kind in sorted(kinds) if happened[kind])
                 for kinds, _ in LANES]
        text = "; ".join(part for part in parts if part)
        return (f"faults: {sum(happened.values())}",
                text.replace("redis promoted", f"redis promoted ({self.stage.in_step} in step)"))

    def _sessions(self) -> tuple[str, str]:
        nodes = self.stage.nodes
        recovered = nodes.told["recovered True"]
        refused = {kind.removeprefix("recovered False").strip() or "new": count
                   for kind, count in sorted(nodes.told.items()) if kind.startswith("recovered False")}
        codes = ", ".join(f"{code or 'none'} {count}" for code, count in sorted(nodes.codes.items()))
        names = {"h": "to leave", "r": "resync", "m": "mode", "x": "shed"}
        told = {name: nodes.told[kind] for kind, name in names.items()}
        return (f"sessions: {nodes.told['s']}",
                f"{recovered} recovered, {_listed(refused)}; close codes {codes}; told {_listed(told)}")

    def _fates(self) -> tuple[str, str]:
        counts = self.account.counts
        known = ("published", "delivered", "repeats", "deliveries")
        fates = {name: count for name, count in sorted(counts.items())
                 if name not in known and not name.startswith("queued")}
        return "not delivered, and why; and what else was seen", _listed(fates)

    def _queued(self) -> tuple[str, str]:
        inside = self.stage.inside
        queued = {name.removeprefix("queued").strip(", "): count for name, count in self.account.counts.items()
                  if name.startswith("queued")}
        return ("published through workers", (f"{_listed(dict(inside.statuses))}; of the queued {_listed(queued)}; the "
                f"slowest call {inside.slowest:.3f} s; refused to the emitter {self.stage.outside.refused}"))


def _number(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {_number(count)}" for name, count in counts.items()) or "none"


def play(stage: Stage, seed: int, seconds: float, deliveries: int) -> float:
    """Let the faults happen until the time is up or enough was delivered; how long it took."""
    queues = [iter(lane) for lane in lanes(seed)]
    coming = [(fault.at, number, fault, True) for number, lane in enumerate(queues) for fault in [next(lane)]]
    heapq.heapify(coming)
    began = time.monotonic()
    while True:
        now = time.monotonic() - began
        if now >= seconds or (deliveries and now % 1 < STEP and stage.deliveries >= deliveries):
            break
        if coming[0][0] > now:
            time.sleep(min(STEP, coming[0][0] - now))
            continue
        _, number, fault, begins = heapq.heappop(coming)
        _step(stage, fault, begins)
        if begins:
            heapq.heappush(coming, (fault.at + fault.seconds, number, fault, False))
        else:
            following = next(queues[number])
            heapq.heappush(coming, (following.at, number, following, True))
    for _, _, fault, begins in coming:
        if not begins:
            _step(stage, fault, False)
    return time.monotonic() - began


def _step(stage: Stage, fault: Fault, begins: bool) -> None:
    try:
        (stage.begin if begins else stage.end)(fault)
    except Exception as error:
        raise RuntimeError(f"the machine itself failed at {fault}, {'begin' if begins else 'end'}") from error


def run(seed: int, seconds: float, deliveries: int = 0, watchers: int = 24, per_second: float = 150.0) -> Report:
    """A whole run; it takes `seconds` or until `deliveries` have been made, and up to two minutes for settling."""
    with Stage(seed, watchers, per_second) as stage:
        began = time.monotonic()
        lasted = play(stage, seed, seconds or LONGEST, deliveries)
        stage.settle()
        return Report(seed, lasted, time.monotonic() - began, per_second, stage.account(), stage)
