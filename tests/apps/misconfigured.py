"""A host app whose own configuration is wrong."""

from __future__ import annotations

from flask import Flask

from wsapp import SocketServer

app = Flask(__name__)
app.config["WSAPP_JWT_SECRET"] = "short"
server = SocketServer(app)
