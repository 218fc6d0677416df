"""Alive, delivering, counted."""

from __future__ import annotations

import pytest
from flask import Flask
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.blueprints.conftest import Place
from wsapp import __version__
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import FIGURES, Kind
from wsapp.server import SocketServer


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
    answer = app.test_client().get("/readyz", environ_overrides={"SERVER_SOFTWARE": "another"})
    assert (answer.status_code, answer.json["reason"]) == (503, "starting")


def test_not_ready_while_it_drains(place: Place) -> None:
    place.server.drain(0)
    answer = place.app.test_client().get("/readyz")
    assert (answer.status_code, answer.json["reason"]) == (503, "draining")


def test_not_ready_while_the_broker_is_away(place: Place) -> None:
    place.server._links.lost(BrokerUnavailable("away"))
    answer = place.app.test_client().get("/readyz")
    assert (answer.status_code, answer.json) == (
        503, {"status": "not ready", "mode": "degraded", "reason": "Redis is away: away"})


def families(text: str) -> dict[str, Metric]:
    """As a Prometheus server reads them."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_the_metrics_are_prometheus_text(place: Place) -> None:
    client = place.client()
    client.ask("subscribe-agent", "a")
    place.server.broadcast_agent_thought({"agentId": "a", "thought": "x"})
    answer = place.app.test_client().get("/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    found = families(answer.text)
    for figure in FIGURES:
        family = found[f"wsapp_{figure.name}"]
        assert (family.type, family.documentation) == (
            "counter" if figure.kind is Kind.COUNTER else "gauge", figure.help), figure.key
        assert [sample.labels for sample in family.samples if sample.name == figure.metric] in (
            [{"worker": place.server.token}], []), "a figure that only some workers have"
    value = {name: family.samples[0].value for name, family in found.items() if family.samples}
    assert (value["wsapp_connections"], value["wsapp_rooms"], value["wsapp_events_delivered"]) == (1, 1, 1)
    assert (value["wsapp_ready"], value["wsapp_link_up"], value["wsapp_draining"]) == (1, 1, 0)
    assert value["wsapp_process_resident_memory_bytes"] > 10e6
    assert value["wsapp_process_cpu_seconds"] > 0
    assert {sample.labels["mode"]: sample.value for sample in found["wsapp_mode"].samples} == {
        "normal": 1, "degraded": 0, "catching_up": 0}
    limits = {sample.labels["setting"]: sample.value for sample in found["wsapp_limit"].samples}
    assert limits["WSAPP_MAX_ROOMS"] == 3
    assert limits.keys() >= {"MAX_CONNECTIONS", "MAX_EVENTS_PER_SEC", "WSAPP_OUTBOX_BYTES", "WSAPP_QUEUE_ITEMS"}
    assert found["wsapp_build_info"].samples[0].labels["version"] == __version__


def test_latency_is_a_histogram_in_seconds(place: Place) -> None:
    for milliseconds, deliveries in ((0.3, 1), (30.0, 2), (20_000.0, 1)):
        place.server.metrics.took(milliseconds, deliveries)
    family = families(place.app.test_client().get("/metrics").text)["wsapp_event_delivery_seconds"]
    assert family.type == "histogram"
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    assert (buckets["0.0005"], buckets["0.025"], buckets["0.05"], buckets["10.0"], buckets["+Inf"]) == (1, 1, 3, 3, 4)
    totals = {sample.name: sample.value for sample in family.samples}
    assert totals["wsapp_event_delivery_seconds_count"] == 4
    assert totals["wsapp_event_delivery_seconds_sum"] == pytest.approx(20.0603)


def test_openmetrics_for_those_who_accept_it(place: Place) -> None:
    answer = place.app.test_client().get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


def test_the_metrics_while_the_broker_is_away(place: Place) -> None:
    place.server._links.lost(BrokerUnavailable("away"))
    found = families(place.app.test_client().get("/metrics").text)
    assert (found["wsapp_link_up"].samples[0].value, found["wsapp_ready"].samples[0].value) == (0, 0)
    assert [sample.labels["mode"] for sample in found["wsapp_mode"].samples if sample.value] == ["degraded"]


def test_another_versions_report_is_shown_as_far_as_it_goes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = {"older": {"activeConnections": 3, "unheard": 9, "latencyBuckets": [1, 2], "latencySum": 1.0}}
    monkeypatch.setattr(place.server.figures, "reports", lambda: (reports, ["gone"]))
    found = families(place.app.test_client().get("/metrics").text)
    [connections] = found["wsapp_connections"].samples
    assert (connections.labels, connections.value) == ({"worker": "older"}, 3)
    assert found["wsapp_workers_missing"].samples[0].value == 1
    assert not found["wsapp_rooms"].samples and not found["wsapp_event_delivery_seconds"].samples


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_they_are_read_only(place: Place, path: str) -> None:
    assert place.app.test_client().post(path).status_code == 405
