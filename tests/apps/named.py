"""An app that believes who clients say they are."""

from __future__ import annotations

from typing import Any

from flask import Flask

from wsapp import SocketServer

app = Flask(__name__)
server = SocketServer(app)


@server.identify
def identify(auth: Any, _environ: dict[str, Any]) -> str | None:
    return auth.get("user") if isinstance(auth, dict) else None
