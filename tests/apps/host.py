"""Somebody's Flask app with wsapp in it: an app factory, own socket events, hooks, and routes that publish."""

from __future__ import annotations

import os
import time
from typing import Any

from flask import Flask, jsonify, request, session
from flask.typing import ResponseReturnValue
from flask_socketio import disconnect, join_room, leave_room

from wsapp import SocketServer

server = SocketServer()
calls: list[str] = []
reasons: list[str] = []


@server.socketio.on("host-echo")
def host_echo(data: Any) -> dict[str, Any]:
    """Registered before `init_app`."""
    return {"echo": data, "pid": os.getpid()}


@server.socketio.on("host-join")
def host_join(room: str) -> bool:
    join_room(room)
    return True


@server.socketio.on("host-leave")
def host_leave(room: str) -> bool:
    leave_room(room)
    return True


@server.socketio.on("host-put")
def host_put(value: Any) -> bool:
    session["value"] = value
    return True


@server.socketio.on("host-disconnect")
def host_disconnect() -> None:
    disconnect()


@server.socketio.on("disconnect")
def gone(reason: str) -> None:
    reasons.append(reason)


@server.on_connect
def connected(*_: Any) -> None:
    calls.append("connect")


@server.on_subscribe
def subscribed(_session: Any, room: str) -> None:
    if room == "agent:slow":
        server.socketio.sleep(0.5)  # the client's further packets wait
    calls.append("subscribe")


@server.on_disconnect
def disconnected(*_: Any) -> None:
    calls.append("disconnect")


def create_app() -> Flask:
    """The factory."""
    app = Flask(__name__)
    app.secret_key = "for the socket's session"
    server.init_app(app)

    @server.socketio.on("host-late")
    def host_late(data: Any) -> dict[str, Any]:
        """Registered after `init_app`; emits on the host's own to everybody."""
        server.socketio.emit("host-news", {"of": data})
        return {"late": data}

    @app.get("/calls")
    def told_calls() -> ResponseReturnValue:
        return jsonify(calls)

    @app.get("/reasons")
    def told_reasons() -> ResponseReturnValue:
        return jsonify(reasons)

    @app.get("/pid")
    def pid() -> ResponseReturnValue:
        return jsonify(os.getpid())

    @app.get("/state")
    def state() -> ResponseReturnValue:
        return jsonify({"metrics": server.get_metrics(), "connections": len(list(server.get_active_connections()))})

    @app.post("/publish")
    def publish() -> ResponseReturnValue:
        """`{thought | update | project, event, data, options?}`; the receipt and how long the call took."""
        asked = request.get_json()
        options = asked.get("options", {})
        began = time.monotonic()
        if "thought" in asked:
            receipt = server.broadcast_agent_thought(asked["thought"], **options)
        elif "update" in asked:
            receipt = server.broadcast_task_update(asked["update"], **options)
        else:
            receipt = server.broadcast_project_event(asked["project"], asked["event"], asked["data"], **options)
        return jsonify({"id": receipt.id, "status": receipt.status, "took": time.monotonic() - began,
                        "pid": os.getpid()})

    return app


app = create_app()
