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


@app.post("/revoke")
def revoke() -> ResponseReturnValue:
    """`{jti | user | session, until?}`."""
    server.revoke(**request.get_json())
    return jsonify(os.getpid())


@app.get("/worker")
def worker() -> ResponseReturnValue:
    """The counters of the worker that answers."""
    return jsonify({**server.get_metrics()["worker"], "pid": os.getpid()})
