"""The Flask-SocketIO object of a SocketServer: Flask-SocketIO's, with our server under `run` and our test client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flask import Flask
from flask.testing import FlaskClient
from flask_socketio import SocketIO

from wsapp.stock.testing import TestClient

BEGUN: Final = "wsapp.session"  # in an environ: what the socket session was, before handlers of events changed it


class HostSocketIO(SocketIO):  # type: ignore[misc]  # Flask-SocketIO has no types
    """What the host application adds its events to.  `serve(app, host, port, **options)` is `SocketServer.run`, and
    `changed(sid, namespace)` is called when a handler has changed the socket session of a client."""

    def __init__(self, serve: Callable[..., None], stop: Callable[[], None],
                 changed: Callable[[str, str], None]) -> None:
        super().__init__()
        self._serve, self._stop, self._changed = serve, stop, changed

    def _handle_event(self, handler: Callable[..., Any], message: str, namespace: str, sid: str, *args: Any) -> Any:
        """As Flask-SocketIO's, which makes the socket session a copy of the HTTP session at the first event.  What the
        connect handler puts in, it puts in again at a reconnect; what another one does is lost with the connection."""
        environ = self.server.get_environ(sid, namespace=namespace) or {}
        first = "saved_session" not in environ

        def handled(*arguments: Any) -> Any:
            if first and message != "connect":
                environ[BEGUN] = repr(environ.get("saved_session"))
            return handler(*arguments)
        try:
            return super()._handle_event(handled, message, namespace, sid, *args)
        finally:
            now = environ.get("saved_session")  # none where Flask manages it (manage_session=False)
            if message == "connect":
                environ[BEGUN] = repr(now)
            elif now is not None and environ.get(BEGUN) != repr(now):
                self._changed(sid, namespace)

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
