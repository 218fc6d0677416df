"""`GET /api/v1/rooms`, a room's history and who watches it."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, request

from wsapp.blueprints.api_access import answer, api_url, needs, query, the_server
from wsapp.blueprints.api_schemas import HistoryQuerySchema, RoomsQuery
from wsapp.blueprints.subscriptions import History, history_answer, read_history
from wsapp.core.ports import HistoryPage
from wsapp.schemas import parse_room

api_rooms = Blueprint("rooms", __name__)

MOST_MEMBERS: Final = 1000  # users that are named
_HISTORY: Final = HistoryQuerySchema()
_ROOMS: Final = RoomsQuery()


@api_rooms.get("/rooms")
@needs("read")
def list_rooms() -> Response:
    """The rooms of the cluster that somebody is in, by name, with counts."""
    asked = query(_ROOMS)
    kind = asked.get("kind")
    found = the_server().api.calls.ask("rooms", {"after": asked["after"], "limit": asked["limit"],
                                                 "kind": f"{kind}:" if kind else ""})
    connections: Counter[str] = Counter()
    users: Counter[str] = Counter()
    for told in found.values:
        for room, count, people in told:
            connections[room] += count
            users[room] += people
    names = sorted(connections)
    page = names[:asked["limit"]]
    more = len(names) > len(page) or any(len(told) >= asked["limit"] for told in found.values)
    rooms = [{"room": name, "connections": connections[name], "users": users[name]} for name in page]
    return answer({"rooms": rooms, "next": page[-1] if more else None, "missing": found.missing})


# Ids may have slashes in them, also two in a row.
@api_rooms.get("/rooms/<path:room>/history", merge_slashes=False)
@needs("read")
def room_history(room: str) -> Response:
    """A page of a room, either way, with an ETag: 304 as long as nothing came."""
    parse_room(room)
    asked = History(room, **query(_HISTORY))
    page = read_history(the_server().hub, asked)
    response = answer({**history_answer(page), "next": _next(page, asked)})
    response.headers["Cache-Control"] = "private, no-cache"
    response.set_etag(hashlib.blake2b(response.get_data(), digest_size=12).hexdigest(), weak=True)
    return response.make_conditional(request)  # type: ignore[return-value]  # it returns itself


def _next(page: HistoryPage, asked: History) -> str | None:
    """The path of the page that follows."""
    if not page.publications:
        return None
    last = page.publications[-1].seq(page.room)
    if asked.since is None:
        more: dict[str, object] = {"before": last}
        ended = last <= page.first
    else:
        more = {"since": last, **({} if asked.before is None else {"before": asked.before})}
        ended = last >= min(page.head.seq, (last + 2 if asked.before is None else asked.before) - 1)
    more |= {"limit": asked.limit, "epoch": page.head.epoch}
    return None if ended else f"{api_url()}/rooms/{quote(page.room, safe=':')}/history?{urlencode(more)}"


@api_rooms.get("/rooms/<path:room>/presence", merge_slashes=False)
@needs("read", "publish")
def read_presence(room: str) -> Response:
    """Who watches a room, asked of every worker now: for publishers that want to know whether anybody does."""
    parse_room(room)
    found = the_server().api.calls.ask("room", {"room": room})
    users: Counter[str] = Counter()
    for told in found.values:
        users.update(told)
    members = [{"userId": user, "connections": users[user]} for user in sorted(users)[:MOST_MEMBERS]]
    return answer({"room": room, "watched": bool(users), "users": len(users), "connections": users.total(),
                   "members": members, "missing": found.missing})
