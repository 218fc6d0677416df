"""The server API under /api/v1, put together.  A further part is a blueprint of its own in `PARTS`."""

from __future__ import annotations

from typing import Final

from flask import Blueprint
from werkzeug.exceptions import HTTPException

from wsapp.blueprints import api_access
from wsapp.blueprints.api_critical import api_critical
from wsapp.blueprints.api_documents import api_documents
from wsapp.blueprints.api_drain import api_drain
from wsapp.blueprints.api_operations import api_operations
from wsapp.blueprints.api_publish import api_publish
from wsapp.blueprints.api_rooms import api_rooms
from wsapp.blueprints.api_stream import api_stream
from wsapp.blueprints.security_headers import guarded, judge_name
from wsapp.errors import WsappError

PARTS: Final = (api_publish, api_rooms, api_operations, api_drain, api_critical, api_stream, api_documents)

api = Blueprint("wsapp_api", __name__, url_prefix=api_access.PATH)
for _part in PARTS:
    api.register_blueprint(_part)
api.register_error_handler(api_access.Problem, api_access.told_problem)
api.register_error_handler(WsappError, api_access.told_wsapp_error)
api.register_error_handler(HTTPException, api_access.told_http_error)
api.register_error_handler(PermissionError, api_access.told_strange_name)
api.register_error_handler(Exception, api_access.told_fault)
api.before_app_request(api_access.told_no_route)
api.before_request(judge_name)
api.after_request(api_access.compressed)
api.after_request(api_access.counted)
api.after_request(guarded)
