"""`GET /api/v1/stream`: rooms as Server-Sent Events, for proxies that break WebSockets and for curl.

The caller is a client, not a publisher: it is admitted and authorized as on a socket, and needs no API key.
"""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request

from wsapp.blueprints.api_access import Problem, the_server
from wsapp.core.events import Position
from wsapp.errors import ErrorCode, PayloadError
from wsapp.runtime.stream import open_stream, read_id
from wsapp.schemas import MAX_MS, parse_room

api_stream = Blueprint("stream", __name__)

FULL_RETRY: Final = "5"  # seconds
_KNOWN: Final = {"rooms", "room", "since", "token"}


@api_stream.get("/stream")
def stream() -> Response:
    """`?rooms=agent:a,task:t&since=...`; `Last-Event-ID` wins over `since`."""
    server = the_server()
    cors = _judged_origin(server)
    rooms = _rooms(server.settings.max_rooms)
    since = _since(rooms)
    if request.method == "HEAD":
        return Response(content_type="text/event-stream", headers=cors)
    _require_room_for_one(server)
    try:
        opened = open_stream(server.hub, server.engine, request.environ, _auth(server.settings.token_sources), rooms,
                             since)
    except ConnectionRefusedError as error:
        raise Problem(403, ErrorCode.FORBIDDEN, str(error) or "the connection was refused", dict(cors)) from error
    response = Response(opened.lines(), content_type="text/event-stream; charset=utf-8", headers=cors)
    response.headers["Cache-Control"] = "no-store, no-transform"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep the lines until its buffer is full
    response.call_on_close(opened.end)
    return response


def _auth(sources: tuple[str, ...]) -> dict[str, str]:
    """What stands for the `auth` of CONNECT.  A query ends up in logs: a token there counts only where the settings
    allow it."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = request.args.get("token", "") if "query" in sources else ""
    return {"token": token.strip()} if token.strip() else {}


def _judged_origin(server: object) -> list[tuple[str, str]]:
    origins = server.engine.origins  # type: ignore[attr-defined]
    try:
        origins.judge(request.environ)
    except PermissionError as error:
        raise Problem(403, ErrorCode.FORBIDDEN, str(error)) from error
    headers: list[tuple[str, str]] = origins.headers(request.environ)
    return headers


def _require_room_for_one(server: object) -> None:
    if server.engine.draining:  # type: ignore[attr-defined]
        raise Problem(503, ErrorCode.DRAINING, "the server is restarting", {"Retry-After": "1"})
    limit = server.settings.max_connections  # type: ignore[attr-defined]
    if server.connections.get_connection_count() >= limit:  # type: ignore[attr-defined]
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
