"""A host app that had its own front page and health check before wsapp came."""

from __future__ import annotations

from flask import Flask, redirect, url_for
from flask.typing import ResponseReturnValue

from wsapp import SocketServer

app = Flask(__name__)


@app.get("/")
def front() -> str:
    return "mine"


@app.get("/healthz")
def health() -> str:
    return "mine"


@app.get("/away")
def away() -> ResponseReturnValue:
    return redirect(url_for("front"))


server = SocketServer(app)
