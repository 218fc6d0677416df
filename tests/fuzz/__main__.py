"""`python -m tests.fuzz [--seconds N | --runs N] [--target NAME] [--seed N]`: coverage-guided runs with Atheris.

Without --target every target gets the same share.  An input that fails is written to the working directory and the
status is not 0: put it among the target's SEEDS together with the fix.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

TARGETS = ("frames", "packets", "requests", "fields", "tokens", "heads", "records", "positions", "forwarded")
MAX_SIZE = 4096
SLOWEST = 10  # seconds for one input


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--seconds", type=int, default=60, help="per target (default: 60)")
    parser.add_argument("--runs", type=int, help="so many inputs per target instead of a time")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0: another one each time")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        return run([given.target] if given.target else list(TARGETS), given)
    status = 0
    for name in [given.target] if given.target else TARGETS:
        # libFuzzer ends its process, so each target gets one.
        status |= subprocess.call([sys.executable, "-m", "tests.fuzz", *sys.argv[1:], "--here", "--target", name])
    return status


def run(names: list[str], given: argparse.Namespace) -> int:
    """Fuzz in this process; with several targets the first byte of an input says which it is for."""
    import atheris

    with atheris.instrument_imports(include=["wsapp"], enable_loader_override=False):
        modules = [importlib.import_module(f"tests.fuzz.{name}") for name in names]
    with tempfile.TemporaryDirectory(prefix="wsapp-fuzz-") as corpus:
        for number, module in enumerate(modules):
            for place, seed in enumerate(module.SEEDS):
                head = bytes((number,)) if len(modules) > 1 else b""
                Path(corpus, f"{number}-{place}").write_bytes(head + seed)
        limit = f"-runs={given.runs}" if given.runs else f"-max_total_time={given.seconds}"
        print(f"fuzzing {', '.join(names)}: {limit}", flush=True)
        atheris.Setup([sys.argv[0], limit, f"-seed={given.seed}", f"-max_len={MAX_SIZE}", f"-timeout={SLOWEST}",
                       "-print_final_stats=0", "-verbosity=0", corpus],
                      either([module.check for module in modules]))
        atheris.Fuzz()
    return 0


def either(checks: list[Callable[[bytes], None]]) -> Callable[[bytes], None]:
    """One entry for several targets."""
    if len(checks) == 1:
        return checks[0]

    def chosen(data: bytes) -> None:
        if data:
            checks[data[0] % len(checks)](data[1:])

    return chosen


if __name__ == "__main__":
    sys.exit(main())
