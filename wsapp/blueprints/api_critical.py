"""Critical events for their publishers and the operator: how a delivery stands, and the dead letters."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from flask import Blueprint, Response, g

from wsapp.blueprints.api_access import answer, checked, needs, query, read_body, the_server
from wsapp.blueprints.api_schemas import EVENT_ID, DeadLetterChoice, DeadLettersQuery, DeliveryQuery
from wsapp.core.ports import Fate
from wsapp.errors import ErrorCode, PayloadError, RequestError

api_critical = Blueprint("critical", __name__)

audit = logging.getLogger("wsapp.audit")

PAGE: Final = 50  # dead letters that are held at once
MOST: Final = 10_000  # as many as are kept
_DELIVERY: Final = DeliveryQuery()
_LETTERS: Final = DeadLettersQuery()
_CHOICE: Final = DeadLetterChoice()


@api_critical.get("/deliveries/<id>")
@needs("publish", "read")
def read_delivery(id: str) -> Response:
    """How a critical event stands for each user; with `wait` not before it is settled, at most so many seconds."""
    asked = query(_DELIVERY)
    if not re.fullmatch(EVENT_ID, id):
        raise PayloadError("the id is none of an event", {"id": ["is none of an event"]})
    server, users = the_server(), [asked["user"]] if "user" in asked else None
    if asked["wait"]:
        server.wait_for_ack(id, float(asked["wait"]), users)
    found = server.delivery_status(id)["users"]
    told = [{"userId": user, **at} for user, at in found.items() if users is None or user in users]
    return answer({"id": id, "state": _state({one["state"] for one in told}), "users": told})


def _state(states: set[str]) -> str:
    return next((str(fate) for fate in (Fate.DEAD, Fate.PENDING, Fate.ACKED) if fate in states), "unknown")


@api_critical.get("/dead-letters")
@needs("admin")
def list_dead_letters() -> Response:
    """A page of the dead letters, oldest first."""
    asked = query(_LETTERS)
    page = the_server().dead_letters(asked["limit"] + 1, _place(asked.get("after")))
    shown = page[:asked["limit"]]
    told = [{**{name: value for name, value in letter.items() if name != "user"}, "userId": letter["user"]}
            for letter in shown]
    return answer({"deadLetters": told, "next": _cursor(shown[-1]) if len(page) > len(shown) else None})


def _cursor(letter: Mapping[str, Any]) -> str:
    return f"{letter['died']}:{letter['id']}:{letter['user']}"


def _place(cursor: str | None) -> dict[str, Any] | None:
    if cursor is None:
        return None
    died, id, user = cursor.split(":", 2)
    return {"died": int(died), "id": id, "user": user}


@api_critical.post("/dead-letters/requeue")
@needs("admin")
def requeue() -> Response:
    """Deliver dead letters again, with their attempts counted anew."""
    return answer({"requeued": _each("requeued", the_server().requeue_dead_letter)})


@api_critical.post("/dead-letters/discard")
@needs("admin")
def discard() -> Response:
    """Forget dead letters."""
    return answer({"discarded": _each("discarded", the_server().drop_dead_letter)})


def _each(what: str, change: Callable[[str, str], bool]) -> int:
    """How many of the dead letters that the body names were changed.  Raises RequestError (`not_found`) when it names
    one that is none."""
    chosen = checked(_CHOICE, read_body(), "the dead letter")
    count = sum(change(id, user) for id, user in _chosen(chosen))
    if not count and "id" in chosen:
        raise RequestError(ErrorCode.NOT_FOUND, "there is no such dead letter: see /dead-letters")
    audit.warning("dead letters %s: %d (%s) by key %r", what, count, chosen.get("id", "all"), g.wsapp_api_key.name)
    return count


def _chosen(asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "id" not in asked:
        yield from _all()
    elif "userId" in asked:
        yield asked["id"], asked["userId"]
    else:
        for user, at in the_server().delivery_status(asked["id"])["users"].items():
            if at["state"] == Fate.DEAD:
                yield asked["id"], user


def _all() -> Iterator[tuple[str, str]]:
    """One that dies again meanwhile may be met twice; but this ends."""
    server, last = the_server(), None
    for _ in range(MOST // PAGE):
        page = server.dead_letters(PAGE, last)
        for letter in page:
            yield letter["id"], letter["user"]
        if len(page) < PAGE:
            return
        last = page[-1]
