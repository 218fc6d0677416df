"""A host app that knows its users itself: `identify` and `authorizer` instead of tokens."""

from __future__ import annotations

from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from flask_socketio import ConnectionRefusedError as Refused

from wsapp import SocketServer

app = Flask(__name__)
server = SocketServer(app, auth="host")
forbidden: set[str] = {"agent:secret"}


@server.identify
def identify(auth: Any, _environ: dict[str, Any]) -> str:
    if not isinstance(auth, dict) or auth.get("password") != "right":
        raise Refused("who are you?")
    return str(auth["name"])


@server.authorizer
def authorize(_session: Any, action: str, room: str) -> bool:
    return action == "read" and room not in forbidden


@app.post("/forbid")
def forbid() -> ResponseReturnValue:
    """Forbid a room from now on."""
    forbidden.add(request.get_json()["room"])
    return jsonify(sorted(forbidden))
