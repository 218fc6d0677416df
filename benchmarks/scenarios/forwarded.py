"""forwarded: what a pair of polling requests (POST with an event, GET with its acknowledgement) costs, sent to the host
of its session and to another one, which forwards it.  Two servers with a worker each; the CPU of both counts."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.machine import Failed, Meter
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.targets import STARTERS, Stage, Target

SESSIONS = 16


def cases(options: Options, scenario: str) -> list[Case]:
    """Straight, and over the other host."""
    return [Case(kind, partial(_measure, options, scenario, kind)) for kind in ("straight", "forwarded")
            if "wsapp" in options.targets]


class Polling:
    """A polling session of `owner`, whose requests go to `host`."""

    def __init__(self, owner: Target, host: Target) -> None:
        self._link = http.client.HTTPConnection("127.0.0.1", owner.port, timeout=10)
        self._path, self._numbers = "/socket.io/?EIO=4&transport=polling", itertools.count()
        self._path += "&sid=" + json.loads(self._ask("GET")[1:])["sid"]
        self._ask("POST", b"40")
        while b'"session"' not in self._ask("GET"):
            pass
        self._link.close()
        self._link = http.client.HTTPConnection("127.0.0.1", host.port, timeout=10)

    def _ask(self, method: str, body: bytes | None = None) -> bytes:
        self._link.request(method, self._path, body)
        answer = self._link.getresponse()
        told = answer.read()
        if answer.status != 200:
            raise Failed(f"{method} was answered {answer.status}: {told[:200]!r}")
        return told

    def pair(self) -> None:
        """One event and its acknowledgement."""
        number = next(self._numbers)
        self._ask("POST", b'42%d["update-metadata",{"n":1}]' % number)
        while b"43%d[" % number not in self._ask("GET"):
            pass

    def close(self) -> None:
        self._link.close()


def _measure(options: Options, scenario: str, kind: str, stage: Stage, run: int) -> Sequence[Row]:
    env = {"WSAPP_MAX_INBOUND_PER_SEC": "0", "WSAPP_MAX_INBOUND_PER_USER": "0", **options.env}
    owner, other = (STARTERS["wsapp"](stage, 1, env) for _ in range(2))
    try:
        raw = _pairs(owner, other if kind == "forwarded" else owner, other, options.seconds)
    finally:
        other.process.stop()
        owner.process.stop()
    figures = {"pairs/s": raw["pairs"] / raw["seconds"], "cpu us/pair": raw["cpu"] / raw["pairs"] * 1e6,
               "of the owner": raw["each"][0] / raw["pairs"] * 1e6}
    return [Row(scenario, kind, "wsapp", run, figures, raw)]


def _pairs(owner: Target, host: Target, other: Target, seconds: float) -> dict[str, Any]:
    sessions = [Polling(owner, host) for _ in range(SESSIONS)]
    for session in sessions:
        session.pair()
    meter, pairs, end = Meter([*owner.workers, *other.workers]), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for session in sessions:
            session.pair()
        pairs += len(sessions)
    raw = meter.read()
    for session in sessions:
        session.close()
    return {**raw, "pairs": pairs}
