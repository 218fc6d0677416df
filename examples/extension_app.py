"""wsapp as an extension of your own Flask app, made by an app factory.

    gunicorn -c gunicorn.conf.py "examples.extension_app:create_app()"

Then, from another terminal, `curl -X POST localhost:3001/work/t1` and watch task t1 on http://localhost:3001/, or
`wsapp tail task:t1 agent:worker`.
"""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask

from wsapp import SocketServer

log = logging.getLogger(__name__)


def create_app() -> Flask:
    """The factory.  Each app has a SocketServer of its own, so there may be several in one process."""
    app = Flask(__name__)
    server = SocketServer()
    add_events(server)  # before or after init_app, both work
    server.init_app(app)

    @app.post("/work/<task_id>")
    def work(task_id: str) -> dict[str, object]:
        """Publishing from a view: to everybody who watches, on every worker."""
        server.broadcast_agent_thought({"agentId": "worker", "thought": f"starting {task_id}", "taskId": task_id})
        receipt = server.broadcast_task_update({"taskId": task_id, "status": "in_progress", "progress": 10})
        return {"id": receipt.id, "status": receipt.status}

    return app


def add_events(server: SocketServer) -> None:
    """An event of your own, on the Flask-SocketIO object, and hooks."""

    @server.socketio.on("hello")
    def hello(data: object = None) -> dict[str, object]:
        return {"you said": data}

    @server.on_connect
    def connected(session: Any, environ: dict[str, Any], auth: object) -> None:
        log.info("%s came from %s", session, environ.get("REMOTE_ADDR"))

    @server.on_subscribe
    def subscribed(session: Any, room: str) -> bool:
        return not room.startswith("project:secret-")  # False refuses

    @server.on_disconnect
    def disconnected(session: Any) -> None:
        log.info("%s went", session)
