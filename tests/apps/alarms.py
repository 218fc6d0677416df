"""An app that believes who clients say they are, and publishes critical events."""

from __future__ import annotations

from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from wsapp import SocketServer

app = Flask(__name__)
server = SocketServer(app)


@server.identify
def name(auth: Any, _environ: dict[str, Any]) -> str | None:
    return auth.get("user") if isinstance(auth, dict) else None


@app.post("/alarm")
def alarm() -> ResponseReturnValue:
    """`{agent, wait?}`; the receipt, and whether it was acknowledged within `wait` seconds."""
    asked = request.get_json()
    receipt = server.broadcast_agent_thought({"agentId": asked["agent"], "thought": "alarm"}, critical=True)
    acked = server.wait_for_ack(receipt, asked["wait"]) if "wait" in asked else None
    return jsonify({"id": receipt.id, "status": receipt.status, "acked": acked})
