"""The Flask-SocketIO object of a SocketServer: Flask-SocketIO's, with our server under `run` and our test client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask
from flask_socketio import SocketIO


class HostSocketIO(SocketIO):  # type: ignore[misc]  # Flask-SocketIO has no types
    """What the host application adds its events to.  `serve(app, host, port, **options)` is `SocketServer.run`."""

    def __init__(self, serve: Callable[..., None], stop: Callable[[], None]) -> None:
        super().__init__()
        self._serve, self._stop = serve, stop

    def run(self, app: Flask, host: str | None = None, port: int | None = None, **options: Any) -> None:
        """Serve in this process until it is told to stop; see `SocketServer.run`."""
        self._serve(app, host, port, **options)

    def stop(self) -> None:
        """End `run`."""
        self._stop()
