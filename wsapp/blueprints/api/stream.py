"""`GET /api/v1/stream`: rooms as Server-Sent Events, for proxies that break WebSockets and for curl.

The caller is a client, not a publisher: it is admitted and authorized as on a socket, and needs no API key.  What it
cannot say on its stream, that it has a critical event or wants it again, it posts.
"""

from __future__ import annotations

from typing import Any, Final

from flask import Response, g, request
from marshmallow import validate

from wsapp.auth import bearer
from wsapp.blueprints.api.access import Problem, answer, the_server
from wsapp.blueprints.api.endpoints import ApiBlueprint, Json
from wsapp.blueprints.sessions import AcknowledgedAnswer, RefusedAnswer, acknowledgement, refusal
from wsapp.core.events import Position
from wsapp.errors import ErrorCode, PayloadError, RequestError
from wsapp.runtime.operations import session_name
from wsapp.runtime.stream import WorkerFull, open_stream, read_id
from wsapp.schemas import MAX_MS, Strict, Text, parse_room

api_stream = ApiBlueprint("stream", __name__)

_KNOWN: Final = {"rooms", "room", "since", "token", "presence"}
LOOKUP: Final = 400_000  # bytes that all workers being asked for a session id costs as much as
WITHOUT_OPTIONS: Final = {"provide_automatic_options": False}
PARAMETERS: Final[tuple[Json, ...]] = (
    {"name": "rooms", "in": "query", "schema": {"type": "string"}, "description": "comma list of rooms"},
    {"name": "room", "in": "query", "schema": {"type": "string"}, "description": "one room; may be repeated"},
    {"name": "since", "in": "query", "schema": {"type": "string"},
     "description": "an id of the stream, or a comma list of room:seq"},
    {"name": "presence", "in": "query", "schema": {"type": "boolean"},
     "description": "report who else is in the rooms, and who comes and goes"},
    {"name": "token", "in": "query", "schema": {"type": "string"}},
    {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}})


class Acknowledgement(Strict):
    """A critical event that a stream's user has got, or wants again.  `sessionId` is that of the stream's `session`
    event; it stands for the user where there are no tokens."""

    id = Text(required=True, validate=validate.Length(1, 200))
    sessionId = Text(validate=validate.Length(1, 200))



@api_stream.serve("GET", "/stream", None, parameters=PARAMETERS, content="text/event-stream",
                  options=WITHOUT_OPTIONS)
def stream() -> Response:
    """Rooms as Server-Sent Events: `?rooms=agent:a,task:t&since=...&presence=true`; `Last-Event-ID` wins over `since`.
    A client calls it, with its token and without an API key."""
    server = the_server()
    server.engine.turnstile.judge(request.environ)
    rooms = _rooms(server.settings.max_rooms)
    since, presence = _since(rooms), _presence()
    if request.method == "HEAD":
        return Response(content_type="text/event-stream")
    if server.engine.draining:
        raise Problem(503, ErrorCode.DRAINING, "the server is restarting", {"Retry-After": "1"})
    try:
        opened = open_stream(server.hub, server.engine, request.environ, _auth(server.settings.token_sources), rooms,
                             since, presence)
    except WorkerFull as error:
        raise Problem(503, ErrorCode.LIMIT, str(error), {"Retry-After": str(error.retry_after)}) from error
    except ConnectionRefusedError as error:
        raise Problem(403, ErrorCode.FORBIDDEN, str(error) or "the connection was refused") from error
    response = Response(opened.lines(), content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store, no-transform"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep the lines until its buffer is full
    response.call_on_close(opened.end)
    return response


def _identify() -> None:
    """Who calls is known before the body is read.  Raises PermissionError and TokenRefused."""
    server = the_server()
    server.engine.turnstile.judge(request.environ)
    g.wsapp_identity = server.hub.admission.of_request(request.environ)


@api_stream.serve("POST", "/stream/ack", AcknowledgedAnswer, body=Acknowledgement(), what="the acknowledgement",
                  guard=_identify, options=WITHOUT_OPTIONS)
def ack_event(body: dict[str, Any]) -> Response:
    """The stream's user has the critical event; again is fine.  By the user's token; without tokens by the stream's
    `sessionId`."""
    return answer(acknowledgement(the_server().hub, _user(body), body["id"]))


@api_stream.serve("POST", "/stream/nack", RefusedAnswer, body=Acknowledgement(), what="the acknowledgement",
                  guard=_identify, options=WITHOUT_OPTIONS)
def nack_event(body: dict[str, Any]) -> Response:
    """The stream's user wants the critical event again, soon.  By the user's token; without tokens by the stream's
    `sessionId`."""
    return answer(refusal(the_server().hub, _user(body), body["id"]))


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
        return response  # the answer says so already
    for name, value in origins.headers(request.environ):
        response.headers.add(name, value)
    return response


def _user(body: dict[str, Any]) -> str:
    """The user who answers.  Raises Problem, RequestError (`rate_limited`) and BrokerUnavailable."""
    server = the_server()
    user = g.wsapp_identity.user_id or _anonymous(server, body.get("sessionId"))
    if not server.hub.inbound.admit_request(user):
        server.metrics.count("inboundRefused")
        raise RequestError(ErrorCode.RATE_LIMITED, "more acknowledgements than the user may send")
    return str(user)


def _anonymous(server: Any, session_id: str | None) -> str:
    """Who has no name is known by the secret of the stream, on whichever worker that is."""
    if session_id is None:
        raise Problem(401, ErrorCode.UNAUTHORIZED, "whose acknowledgement? Give the sessionId of the stream's session")
    if not server.hub.inbound.admit_request(f"of {server.hub.admission.address(request.environ)}", LOOKUP):
        server.metrics.count("inboundRefused")
        raise RequestError(ErrorCode.RATE_LIMITED, "more acknowledgements without a token than an address may send")
    found = server.api.calls.ask("user", {"session": session_name(session_id)})
    user = next((user for user in found.values if user), None)
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
