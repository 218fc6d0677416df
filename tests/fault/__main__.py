"""`python -m tests.fault`: a long run of the fault machine; ends with 1 when anything is unexplained."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.fault.machine.run import run
from tests.fault.machine.schedule import listed


def promises() -> int:
    """Run tests/fault/test_promises.py as long and with as many clients as the promises say; show their figures."""
    tests = Path(__file__).with_name("test_promises.py")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-s", str(tests)], check=False, text=True,
                          stdout=subprocess.PIPE, env={**os.environ, "PROMISES_IN_FULL": "1"})
    lines = done.stdout.splitlines()
    print("\n".join([line.partition("promise: ")[2] for line in lines if "promise: " in line] if not done.returncode
                    else lines))
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the schedule; default: the time")
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--seconds", type=float, default=60.0, help="how long faults happen (60)")
    bound.add_argument("--deliveries", type=int, default=0, help="run until so many, at most an hour")
    parser.add_argument("--watchers", type=int, default=24, help="npm clients (24)")
    parser.add_argument("--rate", type=float, default=150.0, help="events published a second (150)")
    parser.add_argument("--promises", action="store_true", help="instead: the single promises, in full length")
    parser.add_argument("--list", action="store_true", help="print the schedule of the seed and do nothing")
    asked = parser.parse_args()
    if asked.list:
        for fault in listed(asked.seed, asked.seconds):
            print(f"{fault.at:8.3f} s  {fault.kind:16} {fault.seconds:6.3f} s  {fault.pick}")
        return 0
    if asked.promises:
        return promises()
    print(f"seed {asked.seed}", flush=True)
    report = run(asked.seed, 0.0 if asked.deliveries else asked.seconds, asked.deliveries, asked.watchers, asked.rate)
    print("\n".join(report.lines()))
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
