"""The queue between a command and Redis: blocks while Redis is there, drops the oldest while it is not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import wait_until
from tests.valkey import Valkey
from wsapp.cli import outlet as outlet_module
from wsapp.cli.outlet import Outlet
from wsapp.core.events import Draft
from wsapp.core.ports import HistoryQuery
from wsapp.emitter import Emitter
from wsapp.schemas import task_draft, thought_draft


def line(number: int) -> Draft:
    return thought_draft({"agentId": "coder", "thought": str(number)}, now_ms=1)


def state(progress: int) -> Draft:
    return task_draft({"taskId": "t", "status": "in_progress", "progress": progress}, now_ms=1)


@pytest.fixture
def server() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


def bodies(server: Valkey, room: str) -> list[dict[str, Any]]:
    with Emitter(server.url, timeout=2.0) as emitter:
        page = emitter._backend.broker.read([HistoryQuery(room, limit=100_000)])[0]
    return [json.loads(publication.body) for publication in page.publications]


def connect(server: Valkey, timeout: float = 0.25) -> Callable[[], Emitter]:
    return lambda: Emitter(server.url, timeout=timeout, history_size=100_000)


def test_in_order_and_complete(server: Valkey) -> None:
    outlet = Outlet(connect(server, 10.0), pytest.fail)
    for start in range(0, 3000, 100):
        outlet.put([line(n) for n in range(start, start + 100)])
    assert outlet.finish(state(100)) == 0
    assert [body["thought"] for body in bodies(server, "agent:coder")] == [str(n) for n in range(3000)]
    assert outlet.published == 3001


def test_the_last_state_comes_last(server: Valkey) -> None:
    outlet = Outlet(connect(server, 10.0), pytest.fail)
    outlet.put([thought_draft({"agentId": "a", "thought": str(n)}, now_ms=1, also_to=["task:t"]) for n in range(2000)])
    outlet.put_state(state(50))
    assert outlet.finish(state(100)) == 0
    assert bodies(server, "task:t")[-1]["progress"] == 100


def test_while_redis_is_away_the_oldest_are_dropped(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet_module, "MAX_DRAFTS", 100)
    server.kill()
    told: list[str] = []
    outlet = Outlet(connect(server), told.append)
    outlet.put([line(0)])
    wait_until(lambda: told, "a warning")
    for number in range(1, 501):
        outlet.put([line(number)])  # must not block
    outlet.put_state(state(1))
    outlet.put_state(state(2))
    server.restart()
    assert outlet.finish(None) == outlet.dropped
    thoughts = [int(body["thought"]) for body in bodies(server, "agent:coder")]
    assert thoughts[-1] == 500
    assert thoughts == sorted(thoughts)
    assert len(thoughts) + outlet.dropped == 501
    assert [body["progress"] for body in bodies(server, "task:t")] == [2]
    assert len(told) == 1


def test_what_never_left_is_counted(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet_module, "GRACE", 0.3)
    server.kill()
    outlet = Outlet(connect(server), lambda message: None)
    outlet.put([line(n) for n in range(700)])
    outlet.put_state(state(1))
    assert outlet.finish(state(2)) == 701  # a newer state takes the place of the one that waited


def test_a_full_queue_makes_the_command_wait(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet_module, "MAX_DRAFTS", 10)
    gate = threading.Event()

    def slowly() -> Emitter:
        gate.wait(10)
        return Emitter(server.url, timeout=10.0)

    outlet = Outlet(slowly, pytest.fail)
    filler = threading.Thread(target=lambda: [outlet.put([line(n)]) for n in range(2000)])
    filler.start()
    filler.join(0.2)
    assert filler.is_alive()
    gate.set()
    filler.join(20)
    assert not filler.is_alive()
    assert outlet.finish(None) == 0
    assert len(bodies(server, "agent:coder")) == 2000
