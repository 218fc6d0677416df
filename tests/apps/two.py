"""Two apps in one process, each with a SocketServer and events of its own."""

from __future__ import annotations

from typing import Any

from flask import Flask

from wsapp import SocketServer

first, second = Flask("first"), Flask("second")
first_server, second_server = SocketServer(first), SocketServer(second)


@first_server.socketio.on("only-first")
def only_first(data: Any) -> dict[str, Any]:
    return {"first": data}


@second_server.socketio.on("only-second")
def only_second(data: Any) -> dict[str, Any]:
    return {"second": data}
