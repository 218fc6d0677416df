"""The Flask-SocketIO object of a SocketServer: Flask-SocketIO's, with our server under `run` and our test client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from flask_socketio import SocketIO

from wsapp.stock.testing import TestClient


class HostSocketIO(SocketIO):  # type: ignore[misc]  # Flask-SocketIO has no types
    """What the host application adds its events to.  `serve(app, host, port, **options)` is `SocketServer.run`."""

    def __init__(self, serve: Callable[..., None], stop: Callable[[], None]) -> None:
        super().__init__()
        self._serve, self._stop = serve, stop

    def run(self, app: Flask, host: str | None = None, port: int | None = None, **options: Any) -> None:
        """Serve in this process until it is told to stop; see `SocketServer.run`."""
        self._serve(app, host, port, **options)

    def test_client(self, app: Flask, namespace: str | None = None, query_string: str | None = None,
                    headers: Any = None, auth: Any = None, flask_test_client: FlaskClient | None = None) -> TestClient:
        """A client for tests, connected to `namespace`; see `wsapp.stock.testing`.  Starts the server if need be."""
        return TestClient(app, self, namespace, query_string, headers, auth, flask_test_client)

    def stop(self) -> None:
        """End `run`."""
        self._stop()
