"""Which answers carry which headers; that the page lives under its policy is tried in tests/browser."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from tests.blueprints.conftest import Place
from wsapp.blueprints.security_headers import PAGE_POLICY
from wsapp.server import SocketServer

OWN = ["/healthz", "/readyz", "/metrics", "/api/v1/openapi.json", "/api/v1/stream", "/api/v1/nowhere"]


@pytest.mark.parametrize("path", ["/", "/live/app.js"])
def test_the_page(place: Place, path: str) -> None:
    headers = place.app.test_client().get(path).headers
    policy = headers["Content-Security-Policy"]
    assert policy == PAGE_POLICY
    assert "unsafe" not in policy and "*" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]


def test_the_page_needs_nothing_inline(place: Place) -> None:
    page = place.app.test_client().get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", page)


@pytest.mark.parametrize("path", OWN)
def test_answers_that_are_no_page(place: Place, path: str) -> None:
    headers = place.app.test_client().get(path).headers
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_hosts_answers_are_left_alone(place: Place) -> None:
    @place.app.get("/own")
    def own() -> str:
        return "mine"

    for path in ("/own", "/nowhere"):
        headers = place.app.test_client().get(path).headers
        assert not {"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"} & set(headers.keys())


@pytest.mark.parametrize(("settings", "url", "forwarded", "told"), [
    ({}, "https://x", None, None),
    ({"hsts": 600}, "https://x", None, "max-age=600"),
    ({"hsts": 600}, "http://x", None, None),
    ({"hsts": 600}, "http://x", "https", None),  # anybody can say so
    ({"hsts": 600, "trusted_proxies": 1}, "http://x", "https", "max-age=600"),
    ({"hsts": 600, "trusted_proxies": 1}, "http://x", "https, http", None),
])
def test_hsts_over_tls_only(settings: dict[str, object], url: str, forwarded: str | None, told: str | None) -> None:
    app = Flask("host")
    SocketServer(app, **settings)
    sent = {"X-Forwarded-Proto": forwarded} if forwarded else {}
    answer = app.test_client().get("/healthz", base_url=url, headers=sent)
    assert answer.headers.get("Strict-Transport-Security") == told
