"""The live page: rooms, thoughts, task bars and the state of the connection, without a build step.

All its URLs are relative, so that it works below any path.
"""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, current_app, request

from wsapp.blueprints.security_headers import answer_strange_name, guarded_page, judge_name

pages = Blueprint("wsapp_pages", __name__, static_folder="static", static_url_path="/live")
pages.before_request(judge_name)
pages.register_error_handler(PermissionError, answer_strange_name)
pages.after_request(guarded_page)


@pages.get("/live")
def index() -> Response:
    """The page itself; everything it loads is under live/.  It is told where Socket.IO is."""
    settings = current_app.extensions["wsapp"].settings
    sockets = "../" * settings.prefix.count("/") + settings.socket_path.strip("/")
    page = Path(str(pages.static_folder), "index.html").read_text(encoding="utf-8")
    response = Response(page.replace('content="socket.io"', f'content="{sockets}"', 1), mimetype="text/html")
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]  # it returns itself
