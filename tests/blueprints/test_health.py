"""Alive, delivering, counted."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from tests.blueprints.conftest import Place
from wsapp.errors import BrokerUnavailable
from wsapp.server import SocketServer

LINE = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]* (?:[-+]?[0-9.]+(?:e[-+]?[0-9]+)?|NaN|[+-]Inf)")


def test_alive_whatever_else(place: Place) -> None:
    place.server.drain(0)
    answer = place.app.test_client().get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "alive"})


def test_ready_while_it_delivers(place: Place) -> None:
    answer = place.app.test_client().get("/readyz")
    assert (answer.status_code, answer.json) == (200, {"status": "ready", "mode": "normal"})


def test_not_ready_before_it_is_started() -> None:
    app = Flask("host")
    SocketServer(app)
    answer = app.test_client().get("/readyz")
    assert (answer.status_code, answer.json["reason"]) == (503, "starting")


def test_not_ready_while_it_drains(place: Place) -> None:
    place.server.drain(0)
    answer = place.app.test_client().get("/readyz")
    assert (answer.status_code, answer.json["reason"]) == (503, "draining")


def test_not_ready_while_the_broker_is_away(place: Place) -> None:
    place.server._outlet.lost(BrokerUnavailable("away"))
    answer = place.app.test_client().get("/readyz")
    assert (answer.status_code, answer.json) == (
        503, {"status": "not ready", "mode": "degraded", "reason": "Redis is away: away"})


def test_the_metrics_are_prometheus_text(place: Place) -> None:
    client = place.client()
    client.ask("subscribe-agent", "a")
    place.server.broadcast_agent_thought({"agentId": "a", "thought": "x"})
    answer = place.app.test_client().get("/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text.endswith("\n")
    lines = answer.text.splitlines()
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE ")}
    samples = {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}
    assert all(LINE.fullmatch(line) for line in lines if not line.startswith("#"))
    assert kinds.keys() == samples.keys()
    assert len(samples) * 2 == len(lines)
    assert set(kinds.values()) == {"counter", "gauge"}
    assert (kinds["wsapp_active_connections"], samples["wsapp_active_connections"]) == ("gauge", 1)
    assert (kinds["wsapp_events_delivered"], samples["wsapp_events_delivered"]) == ("counter", 1)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_they_are_read_only(place: Place, path: str) -> None:
    assert place.app.test_client().post(path).status_code == 405
