"""A host app whose clients need tokens; it revokes on request."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from wsapp import SocketServer

app = Flask(__name__)
server = SocketServer(app)


@server.socketio.on("host-echo")
def host_echo(data: Any) -> Any:
    return data


@server.socketio.on("secrets", namespace="/admin")
def secrets() -> str:
    return "everything"


@server.socketio.on("connect", namespace="/closed")
def refuse() -> bool:
    return False


@server.socketio.on("news", namespace="/public")
def news() -> str:
    return "for everybody"


@app.post("/revoke")
def revoke() -> ResponseReturnValue:
    """`{jti | user | session, until?}`."""
    server.revoke(**request.get_json())
    return jsonify(os.getpid())


@app.get("/worker")
def worker() -> ResponseReturnValue:
    """The counters of the worker that answers."""
    return jsonify({**server.get_metrics()["worker"], "pid": os.getpid()})
