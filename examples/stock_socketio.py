"""Stock Flask-SocketIO as a publisher: code that you have already keeps working.

    REDIS_URL="$(wsapp url)" python -m examples.stock_socketio

What it emits reaches everybody in the room at once, but is not recorded: no id, no seq, no replay after a reconnect.
For those use `wsapp.Emitter`.
"""

from __future__ import annotations

import os

from flask_socketio import SocketIO


def main() -> None:
    """Emit to a room of wsapp over the shared message queue."""
    socketio = SocketIO(message_queue=os.environ["REDIS_URL"],
                        channel=os.environ.get("WSAPP_CHANNEL", "flask-socketio"))
    socketio.emit("note", {"text": "hello from stock Flask-SocketIO"}, to="agent:coder")


if __name__ == "__main__":
    main()
