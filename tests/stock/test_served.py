"""The part of a SocketServer that serves in this process; its ways are started in test_running.py."""

from __future__ import annotations

import pytest
from flask import Flask

from wsapp.server import SocketServer


def test_an_app_of_its_own_is_needed() -> None:
    server = SocketServer()
    with pytest.raises(RuntimeError, match="init_app"):
        server.run()
    server.init_app(Flask("host"))
    with pytest.raises(RuntimeError, match="another app"):
        server.run(Flask("other"))


def test_stop_without_run() -> None:
    for server in (SocketServer(), SocketServer(Flask("host"))):
        with pytest.raises(RuntimeError, match="nothing is served"):
            server.socketio.stop()


def test_wrong_options_are_told_before_anything_is_served() -> None:
    app = Flask("host")
    with pytest.raises(TypeError, match="workers"):
        SocketServer(app).socketio.run(app, workers=3)
