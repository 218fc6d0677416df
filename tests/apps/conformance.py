"""What the conformance suites of Engine.IO, Socket.IO and WebSocket want of a server: echoes, two namespaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import Flask
from flask_socketio import ConnectionRefusedError as Refused
from flask_socketio import emit

from wsapp import SocketServer

app = Flask(__name__)
server = SocketServer(app)
on = server.socketio.on


@on("connect")
@on("connect", namespace="/custom")
def greet(auth: Any = None) -> None:
    emit("auth", auth or {})


@on("connect", namespace="/closed")
def refuse(_auth: Any = None) -> None:
    emit("auth", {})
    raise Refused("members only", {"try": "later"})


@on("message")
@on("message", namespace="/custom")
def echo(*data: Any) -> None:
    emit("message-back", data[0] if len(data) == 1 else data)


@on("message-with-ack")
@on("message-with-ack", namespace="/custom")
def answer(*data: Any) -> Any:
    return data


@on("ask-me")
def ask(question: Any) -> None:
    """Has the client acknowledge, and tells what it said."""
    sio, sid = server.socketio, _sid()
    sio.emit("question", question, to=sid, callback=lambda *said: sio.emit("answered", said, to=sid))


def _sid() -> str:
    from flask import request

    return str(getattr(request, "sid", ""))


def serve_echo(environ: dict[str, Any]) -> Iterable[bytes]:
    """Every message comes back as it is."""
    ws = environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message)
    return []


def serve_stream(environ: dict[str, Any]) -> Iterable[bytes]:
    """Says three things and returns; fails when asked to."""
    ws = environ["wsgi.websocket"]
    for number in range(3):
        ws.send(f"{ws.path} {number}")
    if environ["QUERY_STRING"] == "fail":
        raise RuntimeError("as asked")
    return []


ROUTES = {"/echo": serve_echo, "/stream": serve_stream}
flask_wsgi = app.wsgi_app


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    route = ROUTES.get(environ["PATH_INFO"])
    if route is not None and "wsgi.websocket" in environ:
        return route(environ)
    return flask_wsgi(environ, start_response)


app.wsgi_app = wsgi  # type: ignore[method-assign]
