"""Critical events for their publishers and the operator: how a delivery stands, and the dead letters."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final

from flask import Response, g
from marshmallow import ValidationError, fields, validate, validates_schema

from wsapp.blueprints.api.access import answer, the_server
from wsapp.blueprints.api.endpoints import ApiBlueprint, Json, Whole, count
from wsapp.core.ports import Fate
from wsapp.errors import ErrorCode, PayloadError, RequestError
from wsapp.schemas import AnyJson, Choice, Flag, Strict, Text

api_critical = ApiBlueprint("critical", __name__)

audit = logging.getLogger("wsapp.audit")

PAGE: Final = 50  # dead letters that are held at once
MOST: Final = 10_000  # as many as are kept
MAX_WAIT: Final = 30  # seconds of a request that waits for acknowledgements
EVENT_ID: Final = "[0-9A-Za-z~._-]{1,64}"
BURIED_PATTERN: Final = f"^[0-9]{{1,15}}:{EVENT_ID}:[^\\x00-\\x1f\\x7f-\\x9f]{{1,500}}$"
FATES: Final = tuple(str(fate) for fate in Fate)


class DeadLetterChoice(Strict):
    """A dead letter: of one user, of everybody for whom the event died, or all there are."""

    described: ClassVar[Json] = {"oneOf": [
        {"required": ["id"], "not": {"required": ["all"]}},
        {"required": ["all"], "properties": {"all": {"const": True}},
         "not": {"anyOf": [{"required": ["id"]}, {"required": ["userId"]}]}}]}

    id = Text(validate=validate.Length(1, 200))
    userId = Text(validate=validate.Length(1, 500))
    all = Flag()

    @validates_schema
    def _one(self, data: dict[str, Any], **_: Any) -> None:
        if ("all" in data) == ("id" in data) or data.get("all") is False:
            raise ValidationError("give an id, or all: true", "id")
        if "userId" in data and "id" not in data:
            raise ValidationError("needs an id beside it", "userId")


class DeadLettersQuery(Strict):
    """A page of the dead letters, oldest first: what follows `after`, which is the `next` of the page before."""

    after = fields.String(validate=validate.Regexp(BURIED_PATTERN))
    limit = Whole(1, 100, written=True, load_default=50)


class DeliveryQuery(Strict):
    """How long to wait for the acknowledgements, and of one user alone if wanted."""

    wait = Whole(0, MAX_WAIT, written=True, load_default=0, metadata={"description": "seconds"})
    user = fields.String(validate=validate.Length(1, 500))


class DeadLetterAnswer(Strict):
    """A critical event that a user did not acknowledge."""

    id = fields.String(required=True)
    userId = fields.String(required=True)
    attempts = count("how often it was sent")
    died = count("ms since 1970")
    event = fields.String(required=True)
    data = AnyJson(required=True, allow_none=True)
    rooms = fields.List(fields.String(), required=True)


class DeadLettersAnswer(Strict):
    """Dead letters, oldest first."""

    deadLetters = fields.List(fields.Nested(DeadLetterAnswer), required=True)
    next = fields.String(required=True, allow_none=True,
                         metadata={"description": "`after` of the next page, null at the end"})


class RequeuedAnswer(Strict):
    """How many dead letters are delivered again."""

    requeued = count("dead letters")


class DiscardedAnswer(Strict):
    """How many dead letters were forgotten."""

    discarded = count("dead letters")


class UserDeliveryAnswer(Strict):
    """How a critical event stands for one user."""

    userId = fields.String(required=True)
    state = Choice(FATES, required=True)
    attempts = count("how often it was sent")


class DeliveryAnswer(Strict):
    """How a critical event stands: `acked` when everybody has acknowledged it, `dead` when somebody's is a dead letter,
    `unknown` when it is kept for nobody: no such event, not critical, watched by nobody, or forgotten."""

    id = fields.String(required=True)
    state = Choice(("unknown", *FATES), required=True)
    users = fields.List(fields.Nested(UserDeliveryAnswer), required=True)


@api_critical.serve("GET", "/deliveries/<id>", DeliveryAnswer, scopes=("publish", "read"), query=DeliveryQuery())
def read_delivery(id: str, query: dict[str, Any]) -> Response:
    """How a critical event stands for each user; with `wait` not before it is settled, at most so many seconds."""
    if not re.fullmatch(EVENT_ID, id):
        raise PayloadError("the id is none of an event", {"id": ["is none of an event"]})
    server, users = the_server(), [query["user"]] if "user" in query else None
    if query["wait"]:
        server.wait_for_ack(id, float(query["wait"]), users)
    found = server.delivery_status(id)["users"]
    fates = [{"userId": user, **at} for user, at in found.items() if users is None or user in users]
    return answer({"id": id, "state": _state({one["state"] for one in fates}), "users": fates})


def _state(states: set[str]) -> str:
    return next((str(fate) for fate in (Fate.DEAD, Fate.PENDING, Fate.ACKED) if fate in states), "unknown")


@api_critical.serve("GET", "/dead-letters", DeadLettersAnswer, scopes=("admin",), query=DeadLettersQuery())
def list_dead_letters(query: dict[str, Any]) -> Response:
    """A page of the dead letters, oldest first."""
    page = the_server().dead_letters(query["limit"] + 1, _place(query.get("after")))
    shown = page[:query["limit"]]
    letters = [{**{name: value for name, value in letter.items() if name != "user"}, "userId": letter["user"]}
               for letter in shown]
    return answer({"deadLetters": letters, "next": _cursor(shown[-1]) if len(page) > len(shown) else None})


def _cursor(letter: Mapping[str, Any]) -> str:
    return f"{letter['died']}:{letter['id']}:{letter['user']}"


def _place(cursor: str | None) -> dict[str, Any] | None:
    if cursor is None:
        return None
    died, id, user = cursor.split(":", 2)
    return {"died": int(died), "id": id, "user": user}


@api_critical.serve("POST", "/dead-letters/requeue", RequeuedAnswer, scopes=("admin",), body=DeadLetterChoice(),
                    what="the dead letter")
def requeue_dead_letters(body: dict[str, Any]) -> Response:
    """Deliver dead letters again, with their attempts counted from 0."""
    return answer({"requeued": _each("requeued", the_server().requeue_dead_letter, body)})


@api_critical.serve("POST", "/dead-letters/discard", DiscardedAnswer, scopes=("admin",), body=DeadLetterChoice(),
                    what="the dead letter")
def discard_dead_letters(body: dict[str, Any]) -> Response:
    """Forget dead letters."""
    return answer({"discarded": _each("discarded", the_server().drop_dead_letter, body)})


def _each(what: str, change: Callable[[str, str], bool], chosen: Mapping[str, Any]) -> int:
    """How many of the dead letters that the body names were changed.  Raises RequestError (`not_found`) when it names
    one that is none."""
    count = sum(change(id, user) for id, user in _chosen(chosen))
    if not count and "id" in chosen:
        raise RequestError(ErrorCode.NOT_FOUND, "there is no such dead letter: see /dead-letters")
    audit.warning("dead letters %s: %d (%s) by key %r", what, count, chosen.get("id", "all"), g.wsapp_api_key.name)
    return count


def _chosen(choice: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "id" not in choice:
        yield from _all()
    elif "userId" in choice:
        yield choice["id"], choice["userId"]
    else:
        for user, at in the_server().delivery_status(choice["id"])["users"].items():
            if at["state"] == Fate.DEAD:
                yield choice["id"], user


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
