"""emitter: how many events one process publishes, one by one and in pipelines.  No server takes part."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.machine import Failed
from benchmarks.publishing import prose
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.targets import ROOT, Stage

BATCH = 500


def cases(options: Options, scenario: str) -> list[Case]:
    """wsapp's two ways and the stock emitter."""
    kinds = [kind for kind in ("wsapp single", "wsapp publish_many", "stock single")
             if kind.split()[0] in options.targets]
    return [Case(kind, partial(_measure, options, scenario, kind)) for kind in kinds]


def _measure(options: Options, scenario: str, kind: str, stage: Stage, run: int) -> list[Row]:
    command = [sys.executable, "-m", __name__, kind, stage.redis_url, str(options.seconds), str(options.size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=options.seconds + 30, check=False)
    if done.returncode:
        raise Failed(f"{kind} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    raw: dict[str, Any] = json.loads(done.stdout)
    figures = {"events/s": raw["events"] / raw["seconds"], "cpu us/event": raw["cpu"] / raw["events"] * 1e6}
    return [Row(scenario, kind.split(maxsplit=1)[1], kind.split()[0], run, figures, raw)]


def _publisher(kind: str, url: str, text: str) -> Callable[[], int]:
    """A call that publishes once (or one batch) and says how many events that was."""
    def data() -> dict[str, object]:
        return {"agentId": "a1", "thought": text}

    if kind == "stock single":
        from flask_socketio import SocketIO
        socketio = SocketIO(message_queue=url)
        return lambda: int(socketio.emit("agent-thought", data(), to="agent:a1") is None)
    from wsapp import Emitter
    emitter = Emitter(url)
    if kind == "wsapp single":
        return lambda: int(emitter.broadcast_agent_thought(data()) is not None)
    return lambda: len(emitter.publish_many(("agent-thought", data()) for _ in range(BATCH)))


def main() -> None:
    """`kind url seconds size`: publish as fast as it goes."""
    kind, url, seconds, size = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    publish = _publisher(kind, url, prose(size))
    publish()
    events, began, cpu = 0, time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        events += publish()
    print(json.dumps({"events": events, "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
