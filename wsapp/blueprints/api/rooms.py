"""`GET /api/v1/rooms`, a room's history and who watches it."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, Final
from urllib.parse import quote, urlencode

from flask import Response, request
from marshmallow import fields

from wsapp.blueprints.api.access import answer, api_url, the_server
from wsapp.blueprints.api.endpoints import MAX_PAGE, ApiBlueprint, PageAnswer, PageQuery, Whole, count
from wsapp.blueprints.subscriptions import History, HistoryAnswer, history_answer
from wsapp.blueprints.subscriptions import read_history as read_page
from wsapp.core.events import KINDS
from wsapp.core.ports import HistoryPage
from wsapp.schemas import MAX_MS, Choice, Name, Strict, parse_room

api_rooms = ApiBlueprint("rooms", __name__)

MOST_MEMBERS: Final = 1000  # users that are named


class HistoryQuery(Strict):
    """A page of a room: forwards after `since`, only up to `before` when that is given too; or backwards before
    `before`, from the newest without either."""

    since = Whole(0, MAX_MS, written=True)
    before = Whole(0, MAX_MS, written=True)
    limit = Whole(1, MAX_PAGE, written=True, load_default=100)
    epoch = Name()


class RoomsQuery(PageQuery):
    """Rooms, of one kind if wanted."""

    kind = Choice(KINDS)


class RoomAnswer(Strict):
    """One room with somebody in it."""

    room = fields.String(required=True)
    connections = count("in it, over the cluster")
    users = count("per worker, added up: a user on two workers counts twice")


class RoomsAnswer(PageAnswer):
    """Rooms, by name."""

    rooms = fields.List(fields.Nested(RoomAnswer), required=True)


class MemberAnswer(Strict):
    """A user in a room."""

    userId = fields.String(required=True)
    connections = count("of this user in the room")


class PresenceAnswer(Strict):
    """Who watches a room now; the first 1000 users, all of them counted."""

    room = fields.String(required=True)
    watched = fields.Boolean(required=True)
    users = count("over the cluster")
    connections = count("over the cluster")
    members = fields.List(fields.Nested(MemberAnswer), required=True)
    missing = fields.List(fields.String(), required=True)


class HistoryPageAnswer(HistoryAnswer):
    """A page of a room's history; `next` is the path of the page after it."""

    next = fields.String(required=True, allow_none=True)


@api_rooms.serve("GET", "/rooms", RoomsAnswer, scopes=("read",), query=RoomsQuery())
def list_rooms(query: dict[str, Any]) -> Response:
    """The rooms of the cluster that somebody is in, by name, with counts."""
    kind = query.get("kind")
    found = the_server().api.calls.ask("rooms", {"after": query["after"], "limit": query["limit"],
                                                 "kind": f"{kind}:" if kind else ""})
    connections: Counter[str] = Counter()
    users: Counter[str] = Counter()
    for counts in found.values:
        for room, members, people in counts:
            connections[room] += members
            users[room] += people
    names = sorted(connections)
    page = names[:query["limit"]]
    more = len(names) > len(page) or any(len(counts) >= query["limit"] for counts in found.values)
    rooms = [{"room": name, "connections": connections[name], "users": users[name]} for name in page]
    return answer({"rooms": rooms, "next": page[-1] if more else None, "missing": found.missing})


# Ids may have slashes in them, also two in a row.
@api_rooms.serve("GET", "/rooms/<path:room>/history", HistoryPageAnswer, scopes=("read",), query=HistoryQuery(),
                 answers={304: "nothing new"}, options={"merge_slashes": False})
def read_history(room: str, query: dict[str, Any]) -> Response:
    """A page of a room, either way, with an ETag: 304 as long as nothing came."""
    parse_room(room)
    wanted = History(room, **query)
    page = read_page(the_server().hub, wanted)
    response = answer({**history_answer(page), "next": _next(page, wanted)})
    response.headers["Cache-Control"] = "private, no-cache"
    response.set_etag(hashlib.blake2b(response.get_data(), digest_size=12).hexdigest(), weak=True)
    return response.make_conditional(request)  # type: ignore[return-value]  # it returns itself


def _next(page: HistoryPage, wanted: History) -> str | None:
    """The path of the page that follows."""
    if not page.publications:
        return None
    last = page.publications[-1].seq(page.room)
    if wanted.since is None:
        more: dict[str, object] = {"before": last}
        ended = last <= page.first
    else:
        more = {"since": last, **({} if wanted.before is None else {"before": wanted.before})}
        ended = last >= min(page.head.seq, (last + 2 if wanted.before is None else wanted.before) - 1)
    more |= {"limit": wanted.limit, "epoch": page.head.epoch}
    return None if ended else f"{api_url()}/rooms/{quote(page.room, safe=':')}/history?{urlencode(more)}"


@api_rooms.serve("GET", "/rooms/<path:room>/presence", PresenceAnswer, scopes=("read", "publish"),
                 options={"merge_slashes": False})
def read_presence(room: str) -> Response:
    """Who watches a room, by the answers of every worker now: for publishers that want to know whether anybody does."""
    parse_room(room)
    found = the_server().api.calls.ask("room", {"room": room})
    users: Counter[str] = Counter()
    for counts in found.values:
        users.update(counts)
    members = [{"userId": user, "connections": users[user]} for user in sorted(users)[:MOST_MEMBERS]]
    return answer({"room": room, "watched": bool(users), "users": len(users), "connections": users.total(),
                   "members": members, "missing": found.missing})
