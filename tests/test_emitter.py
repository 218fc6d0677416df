"""Publishing from outside, into a real Valkey."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.valkey import Valkey, free_port
from wsapp.core.events import Draft
from wsapp.core.ports import HistoryQuery
from wsapp.emitter import Emitter, Publisher, PublishInterrupted
from wsapp.errors import BrokerUnavailable, PayloadError, SettingsError

THOUGHT = {"agentId": "coder", "thought": "hm"}


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def emitter(valkey: Valkey, request: pytest.FixtureRequest) -> Iterator[Emitter]:
    with Emitter(valkey.url, prefix=f"{request.node.name.partition('[')[0]}:", timeout=5.0,
                 clock=lambda: 5.0) as emitter:
        yield emitter


def bodies(emitter: Emitter, room: str) -> list[dict[str, object]]:
    page = emitter._backend.broker.read([HistoryQuery(room)])[0]
    return [json.loads(publication.body) for publication in page.publications]


def test_the_three_broadcasts(emitter: Emitter) -> None:
    first = emitter.broadcast_agent_thought(THOUGHT, also_to=["task:t1"])
    second = emitter.broadcast_task_update({"task_id": "t1", "status": "completed"})
    third = emitter.broadcast_project_event("p1", "deployed", {"v": 1}, priority=9)
    assert [receipt.status for receipt in (first, second, third)] == ["accepted"] * 3
    assert first.id < second.id < third.id
    assert {room: place.seq for room, place in first.positions.items()} == {"agent:coder": 1, "task:t1": 1}
    assert second.positions["task:t1"].seq == 2
    assert bodies(emitter, "task:t1") == [{**THOUGHT, "timestamp": 5000},
                                          {"taskId": "t1", "status": "completed", "timestamp": 5000}]
    assert bodies(emitter, "project:p1") == [{"v": 1}]


def test_a_key_is_published_once(emitter: Emitter) -> None:
    first, second = (emitter.broadcast_agent_thought(THOUGHT, key="k") for _ in range(2))
    assert (first.id, first.places) == (second.id, second.places)
    assert (first.duplicate, second.duplicate) == (False, True)


def test_publish_many_takes_calls_and_drafts(emitter: Emitter) -> None:
    receipts = emitter.publish_many([
        ("agent-thought", THOUGHT),
        ("task-update", {"taskId": "t1", "status": "failed"}, {"also_to": ["agent:coder"]}),
        ("project-event", "p1", "deployed", None),
        ("project-event", "p1", "deployed", {}, {"priority": 1}),
        emitter.thought(THOUGHT, also_to=["project:p1"]),
    ])
    assert [list(receipt.positions) for receipt in receipts] == [
        ["agent:coder"], ["task:t1", "agent:coder"], ["project:p1"], ["project:p1"], ["agent:coder", "project:p1"]]


def test_publish_many_keeps_order_over_pipelines(emitter: Emitter) -> None:
    receipts = emitter.publish_many(("agent-thought", {"agentId": "coder", "thought": str(n)}) for n in range(1750))
    assert [receipt.places[0].seq for receipt in receipts] == list(range(1, 1751))
    page = emitter._backend.broker.read([HistoryQuery("agent:coder", limit=2000)])[0]
    assert [json.loads(item.body)["thought"] for item in page.publications] == [str(n) for n in range(1750)]


@pytest.mark.parametrize("call", [("nonsense", {}), ("agent-thought",), ("project-event", "p", "e"),
                                  ("task-update", {}), ("agent-thought", THOUGHT, {"priority": 99})])
def test_wrong_calls(emitter: Emitter, call: tuple[object, ...]) -> None:
    with pytest.raises(PayloadError):
        emitter.publish_many([call])


def test_a_wrong_payload_needs_no_redis() -> None:
    with Emitter(f"redis://127.0.0.1:{free_port()}") as emitter, pytest.raises(PayloadError):
        emitter.broadcast_agent_thought({"thought": "whose?"})


def test_limits_are_those_of_the_settings(valkey: Valkey) -> None:
    with Emitter(valkey.url, prefix="limits:", timeout=5.0, history_size=3, max_event=300) as emitter:
        emitter.publish_many([("agent-thought", THOUGHT)] * 10)
        assert len(bodies(emitter, "agent:coder")) == 3
        with pytest.raises(PayloadError, match="300 bytes"):
            emitter.broadcast_agent_thought({**THOUGHT, "thought": "x" * 300})
    with pytest.raises(SettingsError, match="history_size"):
        Emitter(valkey.url, history_siz=3)


def test_redis_away_hung_and_back() -> None:
    with Valkey() as server, Emitter(server.url, timeout=0.2) as emitter:
        emitter.broadcast_agent_thought(THOUGHT)
        server.stop_process()
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            emitter.broadcast_agent_thought(THOUGHT)
        assert time.monotonic() - begun < 5.0  # bounded at all; the bound itself is the contract test's
        server.cont()
        server.kill()
        with pytest.raises(BrokerUnavailable):
            emitter.broadcast_agent_thought(THOUGHT)
        server.restart()
        assert emitter.broadcast_agent_thought(THOUGHT).status == "accepted"


def test_an_interrupted_publish_many_says_what_is_known() -> None:
    with Valkey() as server, Emitter(server.url, timeout=5.0) as emitter:
        def calls() -> Iterator[Draft]:
            for number in range(1200):
                if number == 1100:
                    server.kill()
                yield emitter.thought({"agentId": "coder", "thought": str(number)})
        with pytest.raises(PublishInterrupted) as caught:
            emitter.publish_many(calls())
        assert (len(caught.value.receipts), caught.value.unknown) == (1000, 200)
        assert caught.value.retryable


def test_what_was_interrupted_is_recorded_once_when_it_is_repeated() -> None:
    """Redis hangs, has perhaps done what it was sent, and answers too late."""
    with Valkey() as server, Emitter(server.url, timeout=1.0) as emitter:
        def calls() -> Iterator[Draft]:
            for number in range(1200):
                if number == 1100:
                    os.kill(server.pid, signal.SIGSTOP)
                yield emitter.thought({"agentId": "coder", "thought": str(number)})
        try:
            with pytest.raises(PublishInterrupted) as caught:
                emitter.publish_many(calls())
        finally:
            os.kill(server.pid, signal.SIGCONT)
        receipts = caught.value.receipts + emitter.publish_many(caught.value.retries)
        seqs = [receipt.positions["agent:coder"].seq for receipt in receipts]
        assert sorted(seqs) == list(range(1, 1201))
        history = emitter._backend.broker.read([HistoryQuery("agent:coder", limit=2000)])[0].publications
        assert sorted(receipt.id for receipt in receipts) == sorted(one.id for one in history)


def test_where_redis_is_found(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", valkey.url)
    with Emitter(prefix="environment:", timeout=5.0) as emitter:
        assert emitter.broadcast_agent_thought(THOUGHT).status == "accepted"
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setenv("WEBSOCKET_PORT", str(free_port()))
    with pytest.raises(SettingsError, match="REDIS_URL is not set and no wsapp server"):
        Emitter()


def test_close_twice(valkey: Valkey) -> None:
    emitter = Emitter(valkey.url)
    emitter.close()
    emitter.close()


def test_publisher_over_any_broker() -> None:
    from wsapp.backends import Limits, open_backend
    backend = open_backend(None, Limits(), channel="c")
    publisher = Publisher(backend.broker, max_event=200, clock=lambda: 1.5)
    receipt = publisher.broadcast_agent_thought(THOUGHT)
    assert receipt.positions["agent:coder"].seq == 1
    assert publisher.thought(THOUGHT).ts == 1500
    backend.close()
