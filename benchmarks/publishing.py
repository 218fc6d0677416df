"""Starts a publisher process for a target and hears how much it published."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from benchmarks.machine import Failed, Process, pin
from benchmarks.targets import PEERS, ROOT, Stage, others

TEXT = """the agent reads a test and finds that the parser drops an empty line at the end of the file so it
writes another case first then looks at where the buffer is cut and why nobody saw this before"""
WORDS = TEXT.split()


def prose(size: int) -> str:
    """`size` characters that compress about as prose does, always the same."""
    choose = random.Random(size)  # noqa: S311
    words: list[str] = []
    length = 0
    while length < size:
        words.append(f"{choose.choice(WORDS)}{choose.randrange(100) if choose.random() < 0.1 else ''}")
        length += len(words[-1]) + 1
    return " ".join(words)[:size]


class Publisher(Process):
    """One publisher at work; `done()` waits for its end."""

    def __init__(self, stage: Stage, target: str, *, seconds: float, rooms: int = 1, first: int = 1, size: int = 200,
                 **pace: float) -> None:
        plan = {"target": target, "redis": stage.redis_url, "shared": str(stage.page.path), "seconds": seconds,
                "rooms": rooms, "first": first, "text": prose(size), **pace}
        command = [sys.executable, "-m", "benchmarks.publisher"] if target != "node" else ["node", "publisher.mjs"]
        super().__init__(f"publisher of {target}", [*command, json.dumps(plan)], stage.folder / "publisher.log",
                         cwd=ROOT if target != "node" else PEERS, piped=True)
        self.seconds = seconds
        pin([self.pid], others())

    def done(self, slack: float = 30.0) -> dict[str, Any]:
        """`{published, seconds, refused}`.  Raises Failed when it failed or is late by `slack` seconds."""
        out, _ = self.popen.communicate(timeout=self.seconds + slack)
        if self.popen.returncode:
            raise Failed(f"{self.name} ended with {self.popen.returncode}:\n{self.tail()}")
        return dict(json.loads(out))


def publish(stage: Stage, target: str, **plan: Any) -> dict[str, Any]:
    """Publish to the end; what was published."""
    with Publisher(stage, target, **plan) as publisher:
        return publisher.done()
