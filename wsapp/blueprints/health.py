"""`/healthz`, `/readyz` and `/metrics`: alive, delivering, counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from flask import Blueprint, Response, current_app, jsonify, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from wsapp.blueprints.security_headers import answer_strange_name, guarded, judge_name
from wsapp.core.link import LinkState
from wsapp.metrics import (
    FIGURES,
    LATENCY,
    LATENCY_BOUNDS,
    LATENCY_HELP,
    MILLISECONDS,
    OF_SERVER,
    Kind,
)
from wsapp.settings import SPECS, Settings

LIMITS: Final = ("_items", "_bytes", "_size")  # how settings that are limits end, beside those that begin with max_
MODES: Final = tuple(str(mode) for mode in LinkState)

health = Blueprint("wsapp_health", __name__)
health.register_error_handler(PermissionError, answer_strange_name)
health.after_request(guarded)


@health.get("/healthz")
def alive() -> Response:
    """200 as long as the process answers."""
    return jsonify(status="alive")


@health.get("/readyz")
def ready() -> tuple[Response, int]:
    """200 while the worker delivers; 503 with the reason while it starts, drains, or Redis is away."""
    server = current_app.extensions["wsapp"]
    reason = server.not_ready()
    if reason is None:
        return jsonify(status="ready", mode=server.mode), 200
    return jsonify(status="not ready", mode=server.mode, reason=reason), 503


@health.get("/metrics")
def metrics() -> Response:
    """The figures of all workers, each with its label, in the text format of Prometheus or as OpenMetrics."""
    judge_name()  # the two above reveal nothing, and load balancers call them under any name
    server = current_app.extensions["wsapp"]
    registry = CollectorRegistry(auto_describe=False)
    reports, missing = server.figures.reports()
    registry.register(_Scrape(reports, missing, server.settings))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


class _Scrape(Collector):
    """The families of one answer, made from the reports of the workers."""

    def __init__(self, reports: Mapping[str, Mapping[str, Any]], missing: Sequence[str], settings: Settings) -> None:
        self._reports, self._missing, self._settings = reports, missing, settings

    def collect(self) -> Iterator[Metric]:
        """As `Collector.collect`."""
        for figure in FIGURES:
            family = CounterMetricFamily if figure.kind is Kind.COUNTER else GaugeMetricFamily
            metric = family(f"wsapp_{figure.name}", figure.help, labels=["worker"])
            for worker, report in self._reports.items():
                if figure.key in report:  # one of another version may not have it
                    metric.add_metric([worker], report[figure.key] * figure.unit)
            yield metric
        yield self._latency()
        yield from self._of_server()

    def _latency(self) -> Metric:
        family = HistogramMetricFamily(f"wsapp_{LATENCY}", LATENCY_HELP, labels=["worker"])
        for worker, report in self._reports.items():
            if len(report.get("latencyBuckets", ())) == len(LATENCY_BOUNDS) + 1:
                below = accumulate(report["latencyBuckets"])
                bounds = [*map(floatToGoString, LATENCY_BOUNDS), "+Inf"]
                family.add_metric([worker], list(zip(bounds, below, strict=True)), report["latencySum"] * MILLISECONDS)
        return family

    def _of_server(self) -> Iterator[Metric]:
        texts = {name: text.replace("`", "") for name, _key, _kind, text in OF_SERVER}
        mode = GaugeMetricFamily("wsapp_mode", texts["wsapp_mode"], labels=["worker", "mode"])
        for worker, report in self._reports.items():
            for name in MODES:
                mode.add_metric([worker, name], float(report.get("mode") == name))
        limits = GaugeMetricFamily("wsapp_limit", texts["wsapp_limit"], labels=["setting"])
        for name, spec in SPECS.items():
            if name.startswith("max_") or name.endswith(LIMITS):
                limits.add_metric([spec.env], getattr(self._settings, name))
        build = GaugeMetricFamily("wsapp_build_info", texts["wsapp_build_info"], labels=["worker", "version", "python"])
        for worker, report in self._reports.items():
            build.add_metric([worker, str(report.get("version", "")), str(report.get("python", ""))], 1)
        yield mode
        yield limits
        yield GaugeMetricFamily("wsapp_workers", texts["wsapp_workers"], value=len(self._reports))
        yield GaugeMetricFamily("wsapp_workers_missing", texts["wsapp_workers_missing"], value=len(self._missing))
        yield build
