"""The live page: rooms, thoughts, task bars and the state of the connection, without a build step.

All its URLs are relative, so that it works below any path.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, current_app, request
from markupsafe import escape

from wsapp.blueprints.security_headers import answer_strange_name, guarded_page, judge_name
from wsapp.settings import Settings

STANDARD_PORT: Final = next(str(one.default) for one in fields(Settings) if one.name == "websocket_port")

pages = Blueprint("wsapp_pages", __name__, static_folder="static", static_url_path="/live")
pages.before_request(judge_name)
pages.register_error_handler(PermissionError, answer_strange_name)
pages.after_request(guarded_page)


@pages.get("/live")
def index() -> Response:
    """The page itself; everything it loads is under live/.  It is told where Socket.IO is and how to publish here."""
    settings = current_app.extensions["wsapp"].settings
    facts = {"socket-path": "../" * settings.prefix.count("/") + settings.socket_path.strip("/"),
             "command": publish_command(settings, request.environ.get("SERVER_PORT", ""))}
    page = Path(str(pages.static_folder), "index.html").read_text(encoding="utf-8")
    for name, value in facts.items():
        page = page.replace(f'<meta name="{name}" content="">', f'<meta name="{name}" content="{escape(value)}">', 1)
    response = Response(page, mimetype="text/html")
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]  # it returns itself


def publish_command(settings: Settings, port: str) -> str:
    """How the `wsapp` command is called in the directory of the server, so that it finds this server's Redis; "" where
    other processes cannot publish.  The private Valkey is found by the server's port, any other Redis by REDIS_URL,
    which a page does not show."""
    if settings.redis_url is None:
        return ""
    program = Path(sys.prefix, "bin", "wsapp")
    known = program.relative_to(Path.cwd()) if program.is_file() and program.is_relative_to(Path.cwd()) else "wsapp"
    private = settings.sources["redis_url"] == "embedded" and port not in ("", STANDARD_PORT)
    return f"WEBSOCKET_PORT={port} {known}" if private else str(known)
