"""`GET /api/v1/stream`: rooms as Server-Sent Events, for proxies that break WebSockets and for curl.

The caller is a client, not a publisher: it is admitted and authorized as on a socket, and needs no API key.  What it
cannot say on its stream, that it has a critical event or wants it again, it posts.
"""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response, request

from wsapp.auth import bearer
from wsapp.blueprints.api_access import Problem, answer, checked, read_body, the_server
from wsapp.blueprints.api_schemas import Acknowledgement
from wsapp.blueprints.sessions import acknowledgement, refusal
from wsapp.core.events import Position
from wsapp.errors import ErrorCode, PayloadError, RequestError
from wsapp.runtime.operations import session_name
from wsapp.runtime.stream import open_stream, read_id
from wsapp.schemas import MAX_MS, parse_room

api_stream = Blueprint("stream", __name__)

FULL_RETRY: Final = "5"  # seconds
_KNOWN: Final = {"rooms", "room", "since", "token", "presence"}
_ACKNOWLEDGEMENT: Final = Acknowledgement()


@api_stream.get("/stream", provide_automatic_options=False)
def stream() -> Response:
    """`?rooms=agent:a,task:t&since=...&presence=true`; `Last-Event-ID` wins over `since`."""
    server = the_server()
    server.engine.turnstile.judge(request.environ)
    rooms = _rooms(server.settings.max_rooms)
    since, presence = _since(rooms), _presence()
    if request.method == "HEAD":
        return Response(content_type="text/event-stream")
    _require_room_for_one(server)
    try:
        opened = open_stream(server.hub, server.engine, request.environ, _auth(server.settings.token_sources), rooms,
                             since, presence)
    except ConnectionRefusedError as error:
        raise Problem(403, ErrorCode.FORBIDDEN, str(error) or "the connection was refused") from error
    response = Response(opened.lines(), content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store, no-transform"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep the lines until its buffer is full
    response.call_on_close(opened.end)
    return response


@api_stream.post("/stream/ack", provide_automatic_options=False)
def acknowledge() -> Response:
    """`{id, sessionId?}`: the stream's user has the critical event; again is fine."""
    user, id = _answered()
    return answer(acknowledgement(the_server().hub, user, id))


@api_stream.post("/stream/nack", provide_automatic_options=False)
def refuse() -> Response:
    """`{id, sessionId?}`: the stream's user wants the critical event again, soon."""
    user, id = _answered()
    return answer(refusal(the_server().hub, user, id))


@api_stream.route("/stream", methods=["OPTIONS"])
@api_stream.route("/stream/ack", methods=["OPTIONS"])
@api_stream.route("/stream/nack", methods=["OPTIONS"])
def preflight() -> Response:
    """A page from elsewhere asks whether it may (Fetch standard, "CORS-preflight request")."""
    the_server().engine.turnstile.judge(request.environ)
    return Response(status=204)


@api_stream.after_request
def shared(response: Response) -> Response:
    """Let the page read the answer, refusals too, when its origin may talk to the server."""
    origins = the_server().engine.origins
    try:
        origins.judge(request.environ)
    except PermissionError:
        return response  # it was told so already
    for name, value in origins.headers(request.environ):
        response.headers.add(name, value)
    return response


def _answered() -> tuple[str, str]:
    """The user who answers, and the id of the event.  Raises Problem, RequestError, PayloadError, BrokerUnavailable."""
    server = the_server()
    server.engine.turnstile.judge(request.environ)
    identity = server.hub.admission.of_request(request.environ)
    asked = checked(_ACKNOWLEDGEMENT, read_body(), "the acknowledgement")
    user = identity.user_id or _anonymous(server, asked.get("sessionId"))
    if not server.hub.inbound.admit_request(user):
        server.metrics.count("inboundRefused")
        raise RequestError(ErrorCode.RATE_LIMITED, "more acknowledgements than the user may send")
    return user, asked["id"]


def _anonymous(server: Any, session_id: str | None) -> str:
    """Who has no name is known by the secret of the stream, on whichever worker that is."""
    if session_id is None:
        raise Problem(401, ErrorCode.UNAUTHORIZED, "whose acknowledgement? Give the sessionId of the stream's session")
    found = server.api.calls.ask("user", {"session": session_name(session_id)})
    user = next((told for told in found.values if told), None)
    if user is None:
        raise Problem(401, ErrorCode.UNAUTHORIZED, "no stream that is open has this sessionId")
    return str(user)


def _auth(sources: tuple[str, ...]) -> dict[str, str]:
    """What stands for the `auth` of CONNECT.  A query ends up in logs: a token there counts only where the settings
    allow it."""
    token = bearer(request.headers.get("Authorization"))
    if token is None and "query" in sources:
        token = request.args.get("token", "").strip()
    return {"token": token} if token else {}


def _presence() -> bool:
    """Raises PayloadError."""
    given = request.args.get("presence", "false")
    if given not in ("true", "false"):
        raise PayloadError("presence must be true or false", {"presence": ["must be true or false"]})
    return given == "true"


def _require_room_for_one(server: Any) -> None:
    if server.engine.draining:
        raise Problem(503, ErrorCode.DRAINING, "the server is restarting", {"Retry-After": "1"})
    limit = server.settings.max_connections
    if server.connections.get_connection_count() >= limit:
        server.metrics.count("connectionsRefused")
        raise Problem(503, ErrorCode.LIMIT, f"the worker is full: {limit} connections", {"Retry-After": FULL_RETRY})


def _rooms(limit: int) -> list[str]:
    """`rooms=a,b` and any number of `room=c`, in their order.  Raises PayloadError."""
    unknown = set(request.args) - _KNOWN
    if unknown:
        raise PayloadError(f"the query: {min(unknown)} is unknown", {min(unknown): ["is unknown"]})
    listed = [room for part in request.args.getlist("rooms") for room in part.split(",") if room]
    rooms = list(dict.fromkeys(listed + request.args.getlist("room")))
    for room in rooms:
        parse_room(room)
    if not 1 <= len(rooms) <= limit:
        raise PayloadError(f"rooms must name 1 to {limit} rooms", {"rooms": [f"names {len(rooms)}"]})
    return rooms


def _since(rooms: list[str]) -> dict[str, Position | None]:
    """An id of the stream, or a list of `room:seq`.  Raises PayloadError."""
    given = request.headers.get("Last-Event-ID") or request.args.get("since")
    if not given:
        return {}
    if "@" in given.partition(",")[0].rpartition(":")[2]:
        return dict(read_id(given, rooms))
    since: dict[str, Position | None] = {}
    for part in given.split(","):
        room, _, seq = part.rpartition(":")
        if room not in rooms or not (seq.isascii() and seq.isdecimal() and len(seq) < 17 and int(seq) <= MAX_MS):
            problem = "must be an id of the stream, or a list of room:seq with rooms of `rooms`"
            raise PayloadError(f"since {problem}", {"since": [problem]})
        since[room] = Position("", int(seq))
    return since
