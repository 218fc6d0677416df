"""One run: the schedule's faults on the stage, bounded by time or deliveries, and its report."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from typing import Final

from tests.fault.machine.oracle import Account
from tests.fault.machine.schedule import Fault, lanes
from tests.fault.machine.stage import Stage

LONGEST: Final = 3600.0
STEP: Final = 0.02


@dataclass
class Report:
    """What came out.  `lasted` in seconds, without settling."""

    seed: int
    lasted: float
    account: Account
    stage: Stage

    @property
    def sound(self) -> bool:
        return not self.account.problems

    def lines(self, most: int = 40) -> list[str]:
        """For people."""
        stage, account = self.stage, self.account
        counts = ", ".join(f"{name} {count}" for name, count in sorted(account.counts.items()))
        faults = ", ".join(f"{name} {count}" for name, count in sorted(stage.faults.items()))
        told = ", ".join(f"{name} {count}" for name, count in sorted(stage.nodes.told.items()))
        return [f"seed {self.seed}, {self.lasted:.0f} s, {len(stage.views)} watchers",
                f"account: {counts}", f"faults ({sum(stage.faults.values())}): {faults}",
                f"npm clients were told: {told}; close codes {dict(stage.nodes.codes)}",
                f"published through workers: {dict(stage.inside.statuses)}, slowest {stage.inside.slowest:.3f} s",
                f"refused to the emitter: {stage.outside.refused}",
                f"unexplained or wrong: {len(account.problems)}", *account.problems[:most]]


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
        lasted = play(stage, seed, seconds or LONGEST, deliveries)
        stage.settle()
        return Report(seed, lasted, stage.account(), stage)
