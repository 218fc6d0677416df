"""The server API under /api/v1, put together.  A further part is a blueprint of its own in `PARTS`."""

from __future__ import annotations

from typing import Final

from flask import Blueprint
from werkzeug.exceptions import HTTPException

from wsapp.blueprints.api import access
from wsapp.blueprints.api.critical import api_critical
from wsapp.blueprints.api.documents import api_documents
from wsapp.blueprints.api.drain import api_drain
from wsapp.blueprints.api.operations import api_operations
from wsapp.blueprints.api.publish import api_publish
from wsapp.blueprints.api.rooms import api_rooms
from wsapp.blueprints.api.stream import api_stream
from wsapp.blueprints.security_headers import guarded, judge_name
from wsapp.errors import WsappError

PARTS: Final = (api_publish, api_rooms, api_operations, api_drain, api_critical, api_stream, api_documents)

api = Blueprint("wsapp_api", __name__, url_prefix=access.PATH)
for _part in PARTS:
    api.register_blueprint(_part)
api.register_error_handler(access.Problem, access.answer_problem)
api.register_error_handler(WsappError, access.answer_wsapp_error)
api.register_error_handler(HTTPException, access.answer_http_error)
api.register_error_handler(PermissionError, access.answer_strange_name)
api.register_error_handler(Exception, access.answer_fault)
api.before_app_request(access.answer_no_route)
api.before_request(judge_name)
api.after_request(access.compressed)
api.after_request(access.counted)
api.after_request(guarded)
