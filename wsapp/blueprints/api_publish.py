"""`POST /api/v1/publish` and `/api/v1/publish/batch`: the broadcasts, for every language."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from flask import Blueprint, Response, g, request

from wsapp.blueprints.api_access import answer, checked, needs, read_body, the_server
from wsapp.blueprints.api_schemas import BATCH_KEY, IDEMPOTENCY_KEY, MAX_BATCH, PUBLISH
from wsapp.core.ports import Receipt
from wsapp.errors import PayloadError

api_publish = Blueprint("publish", __name__)


@api_publish.post("/publish")
@needs("publish")
def publish_one() -> Response:
    """One event; 200 with its receipt, 202 while it waits for Redis."""
    return _published([_call(read_body(), _header_key(), "the event")], many=False)


@api_publish.post("/publish/batch")
@needs("publish")
def publish_batch() -> Response:
    """`{events: [...]}`, at most 500, all judged before the first is published."""
    body = read_body()
    if not isinstance(body, dict) or body.keys() != {"events"} or not isinstance(body["events"], list):
        raise PayloadError("a batch is {events: [...]}", {"events": ["must be a list, and the only field"]})
    if not 1 <= len(body["events"]) <= MAX_BATCH:
        raise PayloadError(f"a batch has 1 to {MAX_BATCH} events", {"events": [f"has {len(body['events'])}"]})
    key = _header_key()
    return _published([_call(item, f"{key}#{number}" if key else "", f"events.{number}")
                       for number, item in enumerate(body["events"])], many=True)


def _header_key() -> str:
    """The Idempotency-Key, with or without the quotes of a structured field (RFC 8941 section 3.3.3)."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return ""
    if not re.fullmatch(IDEMPOTENCY_KEY, given):
        problem = f"must be 1 to {BATCH_KEY} visible ASCII characters"
        raise PayloadError(f"Idempotency-Key {problem}", {"Idempotency-Key": [problem]})
    return given.strip('"') if given[0] == '"' else given


def _call(item: Any, key: str, what: str) -> tuple[Any, ...]:
    """The call that `Publisher.draft` understands; an event's own `key` goes before the header's.  Raises
    PayloadError."""
    if not isinstance(item, dict):
        raise PayloadError(f"{what} must be an object", {what: ["must be an object"]})
    kind = item.get("type")
    schema = PUBLISH.get(kind) if isinstance(kind, str) else None
    if schema is None:
        raise PayloadError(f"{what}: type must be one of {', '.join(map(str, PUBLISH))}",
                           {"type": [f"must be one of {', '.join(map(str, PUBLISH))}"]})
    asked = checked(schema, item, what)
    options = {"key": _own_key(asked.get("key", key))}
    options |= {name: asked[name] for name in ("priority", "critical") if name in asked}
    if "alsoTo" in asked:
        options["also_to"] = asked["alsoTo"]
    if kind == "project-event":
        return (kind, asked["projectId"], asked["event"], asked["data"], options)
    return (kind, asked["data"], options)


def _own_key(key: str) -> str:
    """An idempotency key in the name space of the API key that uses it: nobody's request is answered with the receipt
    of somebody else's event."""
    if not key:
        return ""
    return f"{g.wsapp_api_key.name}:{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"


def _published(calls: list[tuple[Any, ...]], *, many: bool) -> Response:
    server = the_server()
    drafts = [_draft(server, call, f"events.{number}" if many else "") for number, call in enumerate(calls)]
    receipts = [_told(receipt) for receipt in server.publish_many(drafts)]
    status = 200 if all(told["status"] == "accepted" for told in receipts) else 202
    return answer({"receipts": receipts} if many else receipts[0], status)


def _draft(server: Any, call: tuple[Any, ...], where: str) -> Any:
    try:
        return server.draft(call)
    except PayloadError as error:
        raise PayloadError(f"{where}: {error}" if where else str(error), error.fields) from None


def _told(receipt: Receipt) -> dict[str, object]:
    return {"id": receipt.id, "status": receipt.status, "duplicate": receipt.duplicate,
            "positions": {room: {"epoch": at.epoch, "seq": at.seq} for room, at in receipt.positions.items()}}
