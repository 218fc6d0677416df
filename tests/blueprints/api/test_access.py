"""Keys, bodies, errors and compression of the server API."""

from __future__ import annotations

import gzip
import json
from io import BytesIO

import pytest

from tests.blueprints.api.client import ApiClient
from tests.blueprints.conftest import Place
from wsapp.blueprints.api.access import STATUS
from wsapp.errors import ErrorCode


def test_every_error_code_has_a_status() -> None:
    assert set(STATUS) == set(ErrorCode)


def test_a_key_comes_in_either_header(place: Place) -> None:
    api = ApiClient(place, "read")
    http = place.app.test_client()
    assert http.get("/api/v1/stats", headers={"Authorization": f"bearer {api.secret}"}).status_code == 200
    assert http.get("/api/v1/stats", headers={"X-API-Key": api.secret}).status_code == 200
    for wrong in ({}, {"Authorization": "Basic eA=="}, {"X-API-Key": api.secret + "x"}, {"X-API-Key": ""}):
        refused = http.get("/api/v1/stats", headers=wrong)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert api.secret not in refused.text


def test_each_scope_is_by_itself(place: Place) -> None:
    publisher, reader, admin = ApiClient(place, "publish"), ApiClient(place, "read"), ApiClient(place, "admin")
    for path, allowed in (("/rooms", [reader]), ("/connections", [admin]), ("/stats", [reader, admin]),
                          ("/rooms/agent:a/presence", [publisher, reader])):
        for each in (publisher, reader, admin):
            assert each.get(path).status_code == (200 if each in allowed else 403), path


@pytest.mark.parametrize(("more", "status"), [
    ({"data": "{}", "content_type": "text/plain"}, 415), ({"data": "", "content_type": "application/json"}, 400),
    ({"data": '{"a":Infinity}', "content_type": "application/json"}, 400), ({"json": []}, 422),
    ({"data": b" " * 4_000_001, "content_type": "application/json"}, 413),
    ({"input_stream": BytesIO(b" " * 4_000_001), "content_type": "application/json",
      "environ_overrides": {"wsgi.input_terminated": True}}, 413)])
def test_bodies(place: Place, more: dict[str, object], status: int) -> None:
    reply = ApiClient(place).send("POST", "/publish", **more)
    told = reply.get_json()
    assert (reply.status_code, told["status"], reply.content_type) == (status, status, "application/problem+json")


def test_unknown_ways_are_problems_here_and_only_here(place: Place) -> None:
    http = place.app.test_client()
    wrong = http.delete("/api/v1/publish")
    assert (wrong.status_code, wrong.content_type) == (405, "application/problem+json")
    assert wrong.headers["Allow"] == "OPTIONS, POST"
    assert http.get("/api/v1").content_type == "application/problem+json"
    assert http.get("/api/v1beta").content_type.startswith("text/html")
    assert http.delete("/healthz").content_type.startswith("text/html")


def test_long_answers_are_compressed_for_who_asks(place: Place) -> None:
    api = ApiClient(place)
    for asked, coding in (("gzip", "gzip"), ("br, gzip;q=0.5", "gzip"), ("gzip;q=0", None), ("identity", None)):
        reply = api.get("/openapi.json", headers={"Accept-Encoding": asked})
        assert reply.headers.get("Content-Encoding") == coding
        body = gzip.decompress(reply.data) if coding else reply.data
        assert json.loads(body)["openapi"] == "3.1.0"
        assert "Accept-Encoding" in reply.headers["Vary"]
    assert "Content-Encoding" not in api.get("/nowhere", headers={"Accept-Encoding": "gzip"}).headers


def test_what_is_refused_is_noted_down_without_secrets(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    api = ApiClient(place, "read")
    http = place.app.test_client()
    http.get("/api/v1/stats")
    http.get("/api/v1/stats", headers={"X-API-Key": "wsapp_not-a-key"})
    assert api.post("/revoke", {"jti": "j"}).status_code == 403
    assert [line.getMessage() for line in caplog.records if line.name == "wsapp.audit"] == [
        "refused: nobody from '127.0.0.1' asks for GET '/api/v1/stats'",
        "refused: an unknown API key from '127.0.0.1' asks for GET '/api/v1/stats'",
        "denied: key='read' has not the scope admin for POST '/api/v1/revoke'"]
    assert api.secret not in caplog.text and "wsapp_not-a-key" not in caplog.text
