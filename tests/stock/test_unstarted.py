"""A SocketServer that nobody has started: a test client starts it, a foreign server gets an error at once."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask

from wsapp.server import SocketServer


def test_another_server_is_told_at_the_first_request(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("host")
    app.add_url_rule("/x", "x", lambda: "mine")
    server = SocketServer(app)
    http = app.test_client()
    foreign: dict[str, Any] = {"environ_overrides": {"SERVER_SOFTWARE": "waitress"}}
    with caplog.at_level(logging.ERROR, "wsapp"):
        for _ in range(3):
            refused = http.get("/socket.io/?EIO=4&transport=polling", **foreign)
            assert refused.status_code == 500
            assert "waitress serves this application" in refused.json["message"]
            assert "socketio.run(app)" in refused.json["message"]
        assert http.get("/x", **foreign).text == "mine"
    assert len(caplog.records) == 1
    assert server.not_ready() == "starting"


def test_a_test_client_starts_it_once() -> None:
    app = Flask("host")
    server = SocketServer(app)
    http = app.test_client()
    assert http.get("/healthz").status_code == 200
    assert server.not_ready() is None
    server.shutdown()
    assert http.get("/readyz").status_code == 503  # what has ended is not started again
