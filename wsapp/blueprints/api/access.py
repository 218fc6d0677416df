"""The rules of the server API: who may call, what a body may be, how an error is answered.

Errors are `application/problem+json` (RFC 9457): `title` and `status` of HTTP, `detail` for people, `code` and
`retryable` of `wsapp.errors`, `fields` by name where a payload is wrong.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from flask import Response, current_app, request
from marshmallow import Schema
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from wsapp.auth import bearer
from wsapp.blueprints.security_headers import guarded
from wsapp.core.api_keys import ApiKey
from wsapp.core.events import dumps_spliced, strict_dumps, strict_loads
from wsapp.core.limited_log import LimitedLog
from wsapp.errors import ErrorCode, PayloadError, WsappError
from wsapp.schemas import load

log = logging.getLogger(__name__)
_lines = LimitedLog(logging.getLogger("wsapp.audit"))

PATH: Final = "/api/v1"
PROBLEM: Final = "application/problem+json"
COMPRESS_FROM: Final = 1024  # bytes
RETRY_AFTER: Final = "1"  # seconds
LONGEST: Final = 200  # characters of a path that go into the audit
HOW_TO: Final = ("no API key is configured: make one with `wsapp api-key create NAME --scope publish`, or set "
                 "WSAPP_API_KEYS")
STATUS: Final = {
    ErrorCode.BAD_REQUEST: 400, ErrorCode.BAD_PAYLOAD: 422, ErrorCode.UNKNOWN_EVENT: 404,
    ErrorCode.RESERVED_EVENT: 422, ErrorCode.UNAUTHORIZED: 401, ErrorCode.TOKEN_MISSING: 401,
    ErrorCode.TOKEN_INVALID: 401, ErrorCode.TOKEN_EXPIRED: 401, ErrorCode.TOKEN_REVOKED: 401,
    ErrorCode.KEYS_UNAVAILABLE: 503, ErrorCode.FORBIDDEN: 403, ErrorCode.NOT_FOUND: 404,
    ErrorCode.NOT_SUBSCRIBED: 409, ErrorCode.LIMIT: 429, ErrorCode.RATE_LIMITED: 429,
    ErrorCode.BROKER_UNAVAILABLE: 503, ErrorCode.DRAINING: 503, ErrorCode.INTERNAL: 500,
}
_CODES: Final = {400: ErrorCode.BAD_REQUEST, 401: ErrorCode.UNAUTHORIZED, 403: ErrorCode.FORBIDDEN,
                 404: ErrorCode.NOT_FOUND, 429: ErrorCode.RATE_LIMITED, 503: ErrorCode.DRAINING}


class Problem(Exception):
    """A request of the API that is refused with this status."""

    def __init__(self, status: int, code: ErrorCode, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.headers = status, code, dict(headers or {})


def api_url() -> str:
    """The path of the API in the public URL: below WSAPP_PREFIX, and below the path that a proxy serves us at."""
    return f"{request.script_root}{the_server().settings.prefix}{PATH}"


def the_server() -> Any:
    """The SocketServer of this application."""
    return current_app.extensions["wsapp"]


# -- answers


def answer(content: object, status: int = 200) -> Response:
    """JSON that nobody may keep."""
    body = dumps_spliced(content) if isinstance(content, Mapping) else strict_dumps(content).encode()
    response = Response(body, status, content_type="application/json")
    response.headers["Cache-Control"] = "private, no-store"
    return response


def problem(status: int, code: ErrorCode, detail: str, fields: Mapping[str, object] | None = None,
            retryable: bool = False) -> Response:
    """An error of the API."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": str(code),
            "detail": detail, "retryable": retryable, **({"fields": fields} if fields else {})}
    response = Response(strict_dumps(content).encode(), status, content_type=PROBLEM)
    response.headers["Cache-Control"] = "no-store"
    if retryable:
        response.headers["Retry-After"] = RETRY_AFTER
    return response


def answer_problem(error: Problem) -> Response:
    """Error handler of the blueprint."""
    response = problem(error.status, error.code, str(error))
    response.headers.update(error.headers)
    return response


def answer_wsapp_error(error: WsappError) -> Response:
    """Error handler of the blueprint."""
    fields = error.fields if isinstance(error, PayloadError) else None
    return problem(STATUS[error.code], error.code, str(error), fields, error.retryable)


def answer_http_error(error: HTTPException) -> Response:
    """Error handler of the blueprint: what Flask and werkzeug refuse."""
    status = error.code or 500
    code = _CODES.get(status, ErrorCode.BAD_REQUEST)
    response = problem(status, code, error.description or HTTPStatus(status).phrase)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    if status == 413:
        response.headers["Connection"] = "close"
    return response


def answer_strange_name(error: PermissionError) -> Response:
    """Error handler of the blueprint: a Host or an Origin that is not served."""
    return problem(403, ErrorCode.FORBIDDEN, str(error))


def answer_fault(error: Exception) -> Response:
    """Error handler of the blueprint: a fault of ours is logged, not shown."""
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem(500, ErrorCode.INTERNAL, "the server failed; try again", retryable=True)


def answer_no_route() -> Response | None:
    """Before any request: a path or method below /api/v1 that does not exist gets a problem too, and the host
    application keeps its own error pages."""
    error, below = request.routing_exception, f"{the_server().settings.prefix}{PATH}/"
    if error is None or not (request.path + "/").startswith(below) or (error.code or 0) < 400:
        return None
    return guarded(answer_http_error(error))


def counted(response: Response) -> Response:
    """After each request: those that were refused."""
    if 400 <= response.status_code < 500:
        the_server().metrics.count("apiRefused")
    return response


def compressed(response: Response) -> Response:
    """After each request: gzip for who asks for it (RFC 9110 section 12.5.3)."""
    if response.is_streamed or response.direct_passthrough:
        return response
    response.vary.add("Accept-Encoding")
    body = response.get_data()
    if len(body) >= COMPRESS_FROM and request.accept_encodings["gzip"] > 0:
        response.set_data(gzip.compress(body, 6))
        response.headers["Content-Encoding"] = "gzip"
    return response


# -- keys


def secret() -> str | None:
    """The secret of the request: `Authorization: Bearer` or `X-API-Key`."""
    return bearer(request.headers.get("Authorization")) or request.headers.get("X-API-Key") or None


def require(*scopes: str) -> ApiKey:
    """The key of the request, which must have one of the scopes.  Raises Problem and BrokerUnavailable."""
    keys, given = the_server().api.keys, secret()
    found: ApiKey | None = keys.find(given) if given else None
    if found is None and keys.empty():
        raise Problem(403, ErrorCode.FORBIDDEN, HOW_TO)
    if found is None:
        address = the_server().hub.admission.address(request.environ)
        _lines.warning(address, "refused: %s from %s asks for %s %r", "an unknown API key" if given else "nobody",
                       address, request.method, request.path[:LONGEST])
        raise Problem(401, ErrorCode.UNAUTHORIZED, "not a known API key" if given else
                      "an API key is needed: Authorization: Bearer <key>, or X-API-Key",
                      {"WWW-Authenticate": 'Bearer realm="wsapp"'})
    if not found.scopes & set(scopes):
        _lines.warning(found.name, "denied: key=%r has not the scope %s for %s %r", found.name, " or ".join(scopes),
                       request.method, request.path[:LONGEST])
        raise Problem(403, ErrorCode.FORBIDDEN, f"the key {found.name} has not the scope {' or '.join(scopes)}")
    return found


# -- requests


def read_body() -> Any:
    """The JSON of the request.  Raises Problem."""
    if request.mimetype != "application/json":
        raise Problem(415, ErrorCode.BAD_REQUEST, "the body must be application/json")
    limit = the_server().settings.api_max_body
    # One more: werkzeug cuts a body without a length off at its limit and says nothing.
    request.max_content_length = limit + 1
    try:
        body = request.get_data()
        if len(body) > limit:
            raise RequestEntityTooLarge
        return strict_loads(body)
    except RequestEntityTooLarge:
        raise Problem(413, ErrorCode.BAD_REQUEST, f"a body may have {limit} bytes (WSAPP_API_MAX_BODY)",
                      {"Connection": "close"}) from None
    except ValueError as error:
        raise Problem(400, ErrorCode.BAD_REQUEST, f"the body is not JSON: {error}") from None


def read_query(schema: Schema) -> dict[str, Any]:
    """The query of the request by a schema.  Raises PayloadError, also for what is given twice."""
    for name, values in request.args.lists():
        if len(values) > 1:
            raise PayloadError(f"the query: {name} is given twice", {name: ["is given twice"]})
    found: dict[str, Any] = load(schema, request.args.to_dict(), "the query")
    return found
