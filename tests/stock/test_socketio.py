"""The Flask-SocketIO object of a SocketServer."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, session
from flask_socketio import SocketIO, join_room, leave_room

from wsapp.server import SocketServer


def test_it_is_there_before_the_app_and_is_the_apps() -> None:
    server, app = SocketServer(), Flask("host")
    before = server.socketio
    assert isinstance(before, SocketIO)
    server.init_app(app)
    assert server.socketio is before is app.extensions["socketio"]


@pytest.mark.parametrize(("namespace", "steps", "lost"), [
    ("/", [], set()), ("/", ["read"], set()), ("/", ["put"], {"session"}), ("/", ["nested"], {"session"}),
    ("/", ["join"], {"rooms"}), ("/", ["join", "leave"], set()), ("/", ["join", "put", "leave"], {"session"}),
    ("/", ["fail"], {"session"}), ("/chat", ["put"], {"session"}), ("/chat", ["join"], set())])
def test_what_would_be_lost_at_a_reconnect(namespace: str, steps: list[str], lost: set[str]) -> None:
    """What the connect handler puts into the session is put there again; rooms of other namespaces are no part of what
    `socket.recovered` of this one says."""
    app = Flask("host")
    app.secret_key = "k"
    server = SocketServer(app, redis_url="")
    on = server.socketio.on

    def put(**more: Any) -> None:
        session.update(more)

    def fail() -> None:
        session["before"] = 1
        raise RuntimeError("a bug")
    for name in ("/", "/chat"):
        on("connect", namespace=name)(lambda: put(user="ann", basket=[]))
        on("read", namespace=name)(lambda: session.get("user"))
        on("put", namespace=name)(lambda: put(value=7))
        on("nested", namespace=name)(lambda: session["basket"].append(1))
        on("join", namespace=name)(lambda: join_room("lobby"))
        on("leave", namespace=name)(lambda: leave_room("lobby"))
        on("fail", namespace=name)(fail)
    client = server.socketio.test_client(app)
    try:
        if namespace != "/":
            client.connect(namespace)
        for step in steps:
            if step == "fail":
                with pytest.raises(RuntimeError, match="a bug"):
                    client.emit(step, namespace=namespace)
            else:
                client.emit(step, namespace=namespace)
        assert client.session is not None
        assert [set(kept.host_state) for kept in server.connections.sessions()] == [lost]
    finally:
        server.shutdown()


def test_a_room_of_the_connect_handler_counts() -> None:
    """Nobody keeps what is emitted to it meanwhile."""
    app = Flask("host")
    server = SocketServer(app, redis_url="")
    server.socketio.on("connect")(lambda: join_room("everybody"))
    server.socketio.test_client(app)
    try:
        assert [set(kept.host_state) for kept in server.connections.sessions()] == [{"rooms"}]
    finally:
        server.shutdown()
