"""The stock peer: Flask-SocketIO as its manual sets it up, on gevent with gevent-websocket and a Redis message queue.

Run by gunicorn: `gunicorn -k geventwebsocket.gunicorn.workers.GeventWebSocketWorker -w N benchmarks.peers.stock:app`.
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

from flask import Flask  # noqa: E402
from flask_socketio import SocketIO, join_room  # noqa: E402

app = Flask(__name__)
socketio = SocketIO(app, async_mode="gevent", message_queue=os.environ["REDIS_URL"], cors_allowed_origins="*",
                    ping_interval=int(os.environ.get("PING_INTERVAL", "25000")) / 1000)


@app.get("/readyz")
def ready() -> str:
    """Answers once the worker serves."""
    return "ok"


def subscribe_agent(agent: str) -> dict[str, bool]:
    """Join the agent's room."""
    join_room(f"agent:{agent}")
    return {"ok": True}


def update_metadata(_metadata: object) -> dict[str, bool]:
    """Only answers: what the echo latency is measured with."""
    return {"ok": True}


socketio.on_event("subscribe-agent", subscribe_agent)
socketio.on_event("update-metadata", update_metadata)
