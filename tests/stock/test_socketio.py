"""The Flask-SocketIO object of a SocketServer."""

from __future__ import annotations

from flask import Flask
from flask_socketio import SocketIO

from wsapp.server import SocketServer


def test_it_is_there_before_the_app_and_is_the_apps() -> None:
    server, app = SocketServer(), Flask("host")
    before = server.socketio
    assert isinstance(before, SocketIO)
    server.init_app(app)
    assert server.socketio is before is app.extensions["socketio"]
