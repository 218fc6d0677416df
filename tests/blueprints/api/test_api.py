"""Every part is there, under one roof, and described."""

from __future__ import annotations

import re

from tests.blueprints.api.client import ApiClient
from tests.blueprints.conftest import Place
from wsapp.blueprints.api.openapi import describe as openapi


def test_every_route_is_in_the_document_and_the_other_way_round(place: Place) -> None:
    routes = {(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.removeprefix("/api/v1")), method.lower())
              for rule in place.app.url_map.iter_rules() if rule.rule.startswith("/api/v1")
              for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    told = {(path, method) for path, methods in openapi()["paths"].items() for method in methods}
    assert routes == told


def test_without_a_key_everything_but_documents_and_streams_is_refused(place: Place) -> None:
    http = place.app.test_client()
    for path, methods in openapi()["paths"].items():
        for method in methods:
            if path.endswith(".json") or path.startswith("/stream"):
                continue
            reply = http.open("/api/v1" + path.replace("{room}", "agent:a"), method=method.upper(), json={})
            assert reply.status_code == 403, path
            assert "wsapp api-key create" in reply.get_json()["detail"]


def test_a_fault_is_logged_and_not_shown(place: Place) -> None:
    api = ApiClient(place)
    place.server.get_metrics = lambda: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    reply = api.get("/stats")
    assert (reply.status_code, reply.content_type) == (500, "application/problem+json")
    assert "division" not in reply.text
