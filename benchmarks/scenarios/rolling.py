"""rolling: every worker of a server is replaced under its clients, all at once (SIGHUP) or one by one (SIGTERM).

How often a client moves, how many questions to Redis a return costs, and how many come back with everything.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from functools import partial
from typing import Any

from benchmarks.machine import Failed, Process, children
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.targets import ROOT, Stage, Target, running, wait_for

CLIENTS, WORKERS = 2000, 8
SETTLED = 4.0  # seconds after the last return


def cases(options: Options, scenario: str) -> list[Case]:
    """The two ways."""
    return [Case(f"{clients} clients, {workers} workers, {way}",
                 partial(_measure, options, scenario, clients, workers, way))
            for clients in options.clients or (CLIENTS,) for workers in options.workers or (WORKERS,)
            for way in ("at once", "one by one") if "wsapp" in options.targets]


def _measure(options: Options, scenario: str, clients: int, workers: int, way: str, stage: Stage,
             run: int) -> list[Row]:
    with running("wsapp", stage, workers, options.env) as server:
        command = [sys.executable, "-m", __name__, str(server.port), str(clients)]
        with Process("clients", command, stage.folder / "clients.log", cwd=ROOT, piped=True) as fleet:
            wait_for(lambda: _told(fleet)["there"] == clients, fleet, 120)
            before = _told(fleet)
            idle = _asked(stage, SETTLED)
            began, asked = time.monotonic(), _commands(stage)
            _replace(server, fleet, clients, way)
            took = time.monotonic() - began
            now = _told(fleet)
            questions = sum((_commands(stage) - asked).values()) - idle * took
    moves = now["connects"] - before["connects"]
    raw = {"before": before, "after": now, "seconds": took, "questions": questions, "idle": idle}
    figures = {"moves/client": moves / clients, "questions/return": questions / max(1, moves),
               "recovered %": 100 * now["recovered"] / max(1, moves), "refused": now["refused"] - before["refused"],
               "seconds": took - SETTLED}
    return [Row(scenario, f"{clients} clients, {workers} workers, {way}", "wsapp", run, figures, raw)]


def _replace(server: Target, fleet: Process, clients: int, way: str) -> None:
    """Replace every worker, and wait until all clients are there again for a while."""
    old = children(server.process.pid)
    if way == "at once":
        server.process.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: not set(old) & set(children(server.process.pid)), fleet, 180)
        _settle(fleet, clients)
        return
    for pid in old:
        os.kill(pid, signal.SIGTERM)
        wait_for(partial(_replaced, server, pid, len(old)), fleet, 60)
        _settle(fleet, clients)


def _replaced(server: Target, pid: int, count: int) -> bool:
    now = children(server.process.pid)
    return pid not in now and len(now) == count


def _settle(fleet: Process, clients: int) -> None:
    since = time.monotonic()
    while time.monotonic() - since < SETTLED:
        if _told(fleet)["there"] < clients:
            since = time.monotonic()
        time.sleep(0.2)


def _told(fleet: Process) -> dict[str, Any]:
    """What the clients have counted so far."""
    assert fleet.popen.stdin is not None and fleet.popen.stdout is not None
    fleet.check()
    fleet.popen.stdin.write(b"\n")
    fleet.popen.stdin.flush()
    line = fleet.popen.stdout.readline()
    if not line:
        raise Failed(f"the clients ended:\n{fleet.tail()}")
    told: dict[str, Any] = json.loads(line)
    return told


def _commands(stage: Stage) -> Counter[str]:
    """Commands that clients of Redis have sent so far, by name; those inside of scripts count too."""
    import redis

    with redis.Redis.from_url(stage.redis_url) as client:
        told = client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): int(stats["calls"]) for name, stats in told.items()
                    if name.startswith(("cmdstat_evalsha", "cmdstat_eval"))})


def _asked(stage: Stage, seconds: float) -> float:
    """Scripts a second that run without anybody coming or going."""
    before = _commands(stage)
    time.sleep(seconds)
    return sum((_commands(stage) - before).values()) / seconds


# -- the clients, in a process of their own


class Client:
    """One WebSocket that comes back with its session, half a second to a second after each end, as stock clients do."""

    def __init__(self, port: int, counts: Counter[str]) -> None:
        self._port, self._counts, self._session = port, counts, ""

    def run(self) -> None:
        from gevent import sleep, socket
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=90) as sock:
                    self._serve(sock)
            except OSError:
                self._counts["refused"] += 1
            sleep(random.uniform(0.5, 1.0))

    def _serve(self, sock: Any) -> None:
        sock.sendall(b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                     b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                     b"Sec-WebSocket-Key: " + b"A" * 22 + b"==\r\n\r\n")
        stream = sock.makefile("rb")
        status = stream.readline()
        while stream.readline() not in (b"\r\n", b""):
            pass
        if b" 101 " not in status:
            self._counts["refused"] += 1
            return
        auth = json.dumps({"sessionId": self._session}) if self._session else ""
        self._send(sock, f"40{auth}")
        there = False
        try:
            while (message := self._message(sock, stream)) is not None:
                if message.startswith(b'42["session"'):
                    there = True
                    self._welcome(sock, json.loads(message[2:])[1])
        finally:
            self._counts["there"] -= there

    def _welcome(self, sock: Any, told: dict[str, Any]) -> None:
        self._counts.update({"connects": 1, "there": 1, "recovered": int(told["recovered"]),
                             told.get("reason", "none"): 1})
        self._session = told["sessionId"]
        if not told["recovered"]:
            self._send(sock, f'421["subscribe-agent","a{random.randrange(200)}"]')

    @staticmethod
    def _send(sock: Any, text: str) -> None:
        data = text.encode()
        size = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        sock.sendall(b"\x81" + size + bytes(4) + data)

    def _message(self, sock: Any, stream: Any) -> bytes | None:
        """The next text that is no PING; None at the end."""
        while True:
            head = stream.read(2)
            if len(head) < 2 or head[0] & 15 == 8:
                return None
            size = head[1] & 127
            if size > 125:
                size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
            data: bytes = stream.read(size)
            if data != b"2":
                return data
            self._send(sock, "3")


def main() -> None:
    """`port clients`: keep them connected; for each line on stdin a line of what was counted."""
    import gevent
    from gevent.fileobject import FileObject

    counts: Counter[str] = Counter(there=0, connects=0, recovered=0, refused=0)
    for number in range(int(sys.argv[2])):
        gevent.spawn_later(number * 0.002, Client(int(sys.argv[1]), counts).run)
    for _line in FileObject(sys.stdin):
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
