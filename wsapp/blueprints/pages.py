"""The live page at `/`: rooms, thoughts, task bars and the state of the connection, without a build step."""

from __future__ import annotations

from flask import Blueprint, Response

from wsapp.blueprints.security_headers import guarded_page, judge_name, told_strange_name

pages = Blueprint("wsapp_pages", __name__, static_folder="static", static_url_path="/live")
pages.before_request(judge_name)
pages.register_error_handler(PermissionError, told_strange_name)
pages.after_request(guarded_page)


@pages.get("/")
def index() -> Response:
    """The page itself; everything it loads is under /live/."""
    return pages.send_static_file("index.html")
