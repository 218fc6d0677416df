"""The live page at `/`: rooms, thoughts, task bars and the state of the connection, without a build step."""

from __future__ import annotations

from flask import Blueprint, Response

pages = Blueprint("wsapp_pages", __name__, static_folder="static", static_url_path="/live")


@pages.get("/")
def index() -> Response:
    """The page itself; everything it loads is under /live/."""
    return pages.send_static_file("index.html")
