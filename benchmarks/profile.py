"""`python -m benchmarks.profile paced|saturated|rooms`: where a wsapp worker's time goes, in one steady window.

`--tool py-spy` (default) samples Python frames and prints each function's own share; `--tool perf` samples the
whole process with the kernel and prints symbols.  Neither is part of a measurement: a profiled run is slower.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.load import LoadClient
from benchmarks.machine import Failed
from benchmarks.publishing import Publisher
from benchmarks.scenarios.steady import place_client
from benchmarks.targets import STARTERS, Stage, running, staged

SHAPES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "paced": (1000, 1, {"rate": 10.0}),
    "saturated": (1000, 1, {"window": 8.0, "members": 1000.0}),
    "rooms": (200, 200, {"rate": 1000.0}),
}


def _tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        raise Failed(f"{name} is not installed")
    return found


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stderr[-1000:]}")
    return done.stdout


def py_spy(pid: int, seconds: int, folder: Path, lines: int) -> str:
    """Own share by Python function; what C code it calls takes is its own."""
    raw = folder / "raw"
    _run([_tool("py-spy"), "record", "--pid", str(pid), "--duration", str(seconds), "--rate", "400", "--function",
          "--format", "raw", "-o", str(raw)])
    own: collections.Counter[str] = collections.Counter()
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if "gevent/_threading.py" in stack:  # a thread of the pool that waits for work
            continue
        own[stack.rpartition(";")[2]] += int(count)
    total = sum(own.values())
    return "\n".join(f"{100 * count / total:5.1f} %  {name}" for name, count in own.most_common(lines))


def perf(pid: int, seconds: int, folder: Path, lines: int) -> str:
    """Own share by symbol of process and kernel."""
    data = str(folder / "perf.data")
    _run([_tool("perf"), "record", "-q", "-F", "999", "-p", str(pid), "-o", data, "--", "sleep", str(seconds)])
    text = _run([_tool("perf"), "report", "-i", data, "--stdio", "--no-children", "-F", "overhead,dso,sym"])
    shown = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join(shown[:lines])


def watched(stage: Stage, given: argparse.Namespace) -> str:
    """Start the load and let the tool look at the first worker."""
    clients, rooms, pace = SHAPES[given.shape]
    with (running(given.target, stage) as server,
          LoadClient(stage.folder, server.port, clients, stage.page, rooms=rooms) as client):
        place_client(client, 1)
        client.ready()
        with Publisher(stage, given.target, seconds=given.seconds + 4.0, rooms=rooms, **pace) as publisher:
            time.sleep(2.0)
            tool = perf if given.tool == "perf" else py_spy
            text = tool(server.workers[0], given.seconds, stage.folder, given.lines)
            publisher.done()
    return text


def main() -> int:
    """Print the profile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--target", choices=STARTERS, default="wsapp")
    parser.add_argument("--tool", choices=("py-spy", "perf"), default="py-spy")
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--lines", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wsapp-bench-") as folder, staged(Path(folder)) as stage:
        print(watched(stage, given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
