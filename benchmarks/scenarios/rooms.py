"""joins: clients that each join 100 rooms of their own, with one request for each room and with one list."""

from __future__ import annotations

import json
import statistics
import time
from functools import partial
from typing import Any

from websocket import WebSocket, create_connection

from benchmarks.machine import Failed, Meter
from benchmarks.report import Row
from benchmarks.scenarios import Case, Options
from benchmarks.targets import Stage, running

CLIENTS = 20
ROOMS = 100
SINGLE, LIST = "100 requests", "one list"


def cases(options: Options, scenario: str) -> list[Case]:
    """By number of workers; only wsapp has lists."""
    return [Case(f"{ROOMS} rooms, {workers}w", partial(_measure, options, scenario, workers))
            for workers in options.workers or (1, 2)]


def _measure(options: Options, scenario: str, workers: int, stage: Stage, run: int) -> list[Row]:
    rows = []
    with running("wsapp", stage, workers, options.env) as server:
        warm = _connect(server.port)
        _joined(warm, "warm", SINGLE)
        warm.close()
        for shape in (SINGLE, LIST):
            clients = [_connect(server.port) for _ in range(CLIENTS)]
            meter = Meter(server.workers)
            times = [_joined(client, f"{shape}-{number}", shape) for number, client in enumerate(clients)]
            cpu: Any = meter.read()
            for client in clients:
                client.close()
            figures = {"cpu ms/client": cpu["cpu"] / CLIENTS * 1e3, "ms": statistics.median(times) * 1e3}
            rows.append(Row(scenario, f"{ROOMS} rooms, {workers}w", shape, run, figures, {"cpu": cpu, "times": times}))
    return rows


def _connect(port: int) -> WebSocket:
    client = create_connection(f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket", timeout=10)
    client.send("40")
    while not _text(client).startswith("40"):
        pass
    return client


def _text(client: WebSocket) -> str:
    text = str(client.recv())
    if text == "2":
        client.send("3")
    return text


def _joined(client: WebSocket, name: str, shape: str) -> float:
    """Seconds until the last room has its answer.  Each single request waits for the answer of the one before it, as
    a page's `await` does.  Raises Failed when a room is refused."""
    ids = [f"{name}-{number}" for number in range(ROOMS)]
    started = time.perf_counter()
    for payload in ids if shape == SINGLE else [ids]:
        client.send("421" + json.dumps(["subscribe-agent", payload]))
        text = ""
        while not text.startswith("431"):
            text = _text(client)
        [answer] = json.loads(text[3:])
        if not answer["ok"] or not all(room["ok"] for room in answer.get("rooms", ())):
            raise Failed(f"a room was refused: {text[:300]}")
    return time.perf_counter() - started
