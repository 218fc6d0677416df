"""The client behind `socketio.test_client(app)`: Flask-SocketIO's methods, over the whole server in this process.

Packets take the same way as a polling client's: handshake, CONNECT with authentication, handlers in order, answers.
`emit` returns when the server has handled the event; what it sent meanwhile is in `get_received`.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any, Final

import gevent
from flask import Flask
from flask.testing import FlaskClient
from socketio import packet as sio_packet
from werkzeug.test import create_environ, run_wsgi_app

SEPARATOR: Final = "\x1e"
PATIENCE: Final = 5.0  # seconds that a handler may take before `emit` returns without it
PAUSE: Final = 0.001  # seconds between looks


class TestClient:
    """One client.  `flask_test_client` lends its cookies.  What the server tells at CONNECT, in the event `session`, is
    in `session`, and why it has refused a CONNECT in `refused`."""

    __test__ = False  # pytest takes it for a test otherwise

    def __init__(self, app: Flask, socketio: Any, namespace: str | None = None, query_string: str | None = None,
                 headers: Any = None, auth: Any = None, flask_test_client: FlaskClient | None = None) -> None:
        self.app, self.socketio, self.flask_test_client = app, socketio, flask_test_client
        self.eio_sid = ""
        self.connected: dict[str, bool] = {}
        self.queue: list[dict[str, Any]] = []
        self.session: dict[str, Any] | None = None
        self.refused: Any = None
        self._acks: dict[int, list[Any]] = {}
        self._calls = 0
        self._incomplete: Any = None  # a packet whose attachments are to come
        socketio.server.async_handlers = False  # so that `emit` can wait for the handler
        self._failures: list[Exception] = []
        socketio.server.eio.failures = self._failures
        self.connect(namespace, query_string, headers, auth)

    # -- as in Flask-SocketIO

    def is_connected(self, namespace: str | None = None) -> bool:
        """Whether the client is in a namespace."""
        self._take()
        return self.connected.get(namespace or "/", False)

    def connect(self, namespace: str | None = None, query_string: str | None = None, headers: Any = None,
                auth: Any = None) -> None:
        """Join a further namespace, or come back after `disconnect`.  Raises RuntimeError when the server takes no
        connection."""
        if self._connection() is None:
            self._handshake(query_string, headers)
        self._send(sio_packet.Packet(sio_packet.CONNECT, data=auth, namespace=namespace or "/"))
        self._take()

    def disconnect(self, namespace: str | None = None) -> None:
        """Leave a namespace."""
        self._require(namespace)
        self._send(sio_packet.Packet(sio_packet.DISCONNECT, namespace=namespace or "/"))
        self._take()
        self.connected.pop(namespace or "/", None)

    def emit(self, event: str, *args: Any, callback: bool = False, namespace: str | None = None, **_: Any) -> Any:
        """Send an event and wait until it has been handled.  With `callback` what the server acknowledges is returned:
        one value, or a list of them.  Other keyword arguments are ignored.  Raises what the handler has raised."""
        self._require(namespace)
        call, self.socketio.server.eio.failures = None, self._failures
        if callback:
            self._calls += 1
            call = self._calls
        self._send(sio_packet.Packet(sio_packet.EVENT, data=[event, *args], namespace=namespace or "/", id=call))
        self._take()
        if self._failures:
            raise self._failures.pop()
        answer = self._acks.pop(call, None) if call is not None else None
        return answer[0] if answer is not None and len(answer) == 1 else answer

    def send(self, data: Any, json: bool = False, callback: bool = False, namespace: str | None = None) -> Any:
        """Send a `message` event, or with `json` a `json` event."""
        return self.emit("json" if json else "message", data, callback=callback, namespace=namespace)

    def get_received(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """The events since the last call, each `{name, args, namespace}`."""
        self._require(namespace)
        found = [event for event in self.queue if event["namespace"] == (namespace or "/")]
        self.queue = [event for event in self.queue if event["namespace"] != (namespace or "/")]
        return found

    # -- beyond Flask-SocketIO

    def wait_for(self, event: str, timeout_s: float = PATIENCE, namespace: str | None = None) -> dict[str, Any]:
        """Wait for an event, which is taken out of what `get_received` gives: what comes over Redis, or is throttled,
        comes later.  Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._take()
            for found in self.queue:
                if found["name"] == event and found["namespace"] == (namespace or "/"):
                    self.queue.remove(found)
                    return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"no event {event!r} within {timeout_s:g} s; there were {self.queue}")
            gevent.sleep(PAUSE)

    # -- the transport

    def _require(self, namespace: str | None) -> None:
        if not self.is_connected(namespace):
            raise RuntimeError("not connected" if self.refused is None else f"not connected: {self.refused}")

    def _connection(self) -> Any:
        return self.socketio.server.eio.sockets.get(self.eio_sid)

    def _request(self, method: str, query: str, body: bytes = b"", headers: Any = None) -> tuple[int, bytes]:
        path = self.app.extensions["wsapp"].path_prefix
        environ = create_environ(path, query_string=query, method=method, data=body, headers=headers,
                                 environ_base={"REMOTE_ADDR": "127.0.0.1"})
        if self.flask_test_client is not None:
            self.flask_test_client._add_cookies_to_wsgi(environ)
        chunks, status, _ = run_wsgi_app(self.app, environ)
        return int(status.split()[0]), b"".join(chunks)

    def _handshake(self, query_string: str | None, headers: Any) -> None:
        more = f"&{query_string.lstrip('?')}" if query_string else ""
        status, body = self._request("GET", f"EIO=4&transport=polling{more}", headers=headers)
        if status != 200:
            raise RuntimeError(f"the server takes no connection: {status} {body.decode()}")
        self.eio_sid = json.loads(body[1:])["sid"]
        # Handlers see the query of the test, without what belongs to the transport.
        self.socketio.server.environ[self.eio_sid]["QUERY_STRING"] = more[1:]
        self.connected.clear()

    def _send(self, packet: Any) -> None:
        encoded = packet.encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        self._post(SEPARATOR.join(f"4{part}" if isinstance(part, str) else "b" + base64.b64encode(part).decode()
                                  for part in parts))
        connection, deadline = self._connection(), time.monotonic() + PATIENCE
        while connection is not None and connection.busy and time.monotonic() < deadline:
            gevent.sleep(PAUSE)

    def _post(self, packets: str) -> None:
        self._request("POST", f"EIO=4&transport=polling&sid={self.eio_sid}", packets.encode())

    def _take(self) -> None:
        """Let the server do what it is about to do, and fetch what it has sent."""
        gevent.idle()
        while (connection := self._connection()) is not None and (connection.backlog() or connection.closed):
            _, body = self._request("GET", f"EIO=4&transport=polling&sid={self.eio_sid}")
            for packet in body.decode().split(SEPARATOR):
                self._arrived(packet)
            gevent.idle()
        if self._connection() is None:
            self.connected.clear()

    def _arrived(self, packet: str) -> None:
        if packet == "2":
            self._post("3")
        elif packet.startswith("4"):
            self._decoded(sio_packet.Packet(encoded_packet=packet[1:]))
        elif packet.startswith("b") and self._incomplete is not None:
            complete = self._incomplete.add_attachment(base64.b64decode(packet[1:]))
            if complete:
                whole, self._incomplete = self._incomplete, None
                self._understood(whole)

    def _decoded(self, packet: Any) -> None:
        if packet.attachment_count:
            self._incomplete = packet
        else:
            self._understood(packet)

    def _understood(self, packet: Any) -> None:
        namespace, kind = packet.namespace or "/", packet.packet_type
        if kind in (sio_packet.EVENT, sio_packet.BINARY_EVENT):
            self._event(packet.data, namespace)
        elif kind in (sio_packet.ACK, sio_packet.BINARY_ACK):
            self._acks[packet.id] = packet.data
        elif kind == sio_packet.CONNECT:
            self.connected[namespace], self.refused = True, None
        elif kind in (sio_packet.DISCONNECT, sio_packet.CONNECT_ERROR):
            self.connected[namespace] = False
            self.refused = packet.data

    def _event(self, data: list[Any], namespace: str) -> None:
        name, args = data[0], data[1:]
        if name == "session" and namespace == "/" and args and isinstance(args[0], Mapping):
            self.session = dict(args[0])
            return
        self.queue.append({"name": name, "args": args[0] if name in ("message", "json") and args else args,
                           "namespace": namespace})
