"""`/healthz`, `/readyz` and `/metrics`: alive, delivering, counted."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, jsonify

from wsapp.blueprints.security_headers import guarded
from wsapp.metrics import prometheus

health = Blueprint("wsapp_health", __name__)
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
    """This worker's numbers in the text format of Prometheus."""
    facts = current_app.extensions["wsapp"].get_metrics()
    text = prometheus(facts["worker"])
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")
