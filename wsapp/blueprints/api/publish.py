"""`POST /api/v1/publish` and `/api/v1/publish/batch`: the broadcasts, for every language."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, Final

from flask import Response, g, request
from marshmallow import Schema, fields, validate

from wsapp.blueprints.api.access import answer, the_server
from wsapp.blueprints.api.endpoints import ROOM_PATTERN, ApiBlueprint, Json, Whole
from wsapp.blueprints.subscriptions import PositionAnswer
from wsapp.core.events import MAX_PRIORITY, MIN_PRIORITY
from wsapp.core.ports import Receipt
from wsapp.errors import PayloadError
from wsapp.schemas import (
    MAX_ALSO_TO,
    RESERVED_PROJECT_EVENTS,
    AgentThoughtSchema,
    AnyJson,
    Choice,
    Flag,
    Name,
    RoomId,
    Strict,
    TaskUpdateSchema,
    load,
)

api_publish = ApiBlueprint("publish", __name__)


MAX_BATCH: Final = 500
BATCH_KEY: Final = 190  # characters of an Idempotency-Key: that of an item of a batch adds its number
IDEMPOTENCY_KEY: Final = r'^([!#-~][!-~]{0,189}|"[!#-~]{1,188}")$'
STATUSES: Final = ("accepted", "queued", "local_only")
IDEMPOTENCY: Final[Json] = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "repeating a request with it publishes nothing twice (5 minutes)",
    "schema": {"type": "string", "pattern": IDEMPOTENCY_KEY}}


class PublishOptions(Strict):
    """What every broadcast takes beside its data."""

    priority = Whole(MIN_PRIORITY, MAX_PRIORITY, metadata={"description": "5; from 9 on past the throttle"})
    alsoTo = fields.List(fields.String(validate=validate.Regexp(ROOM_PATTERN)),
                         validate=validate.Length(max=MAX_ALSO_TO), metadata={"description": "more rooms that get it"})
    key = Name(metadata={"description": "idempotency key: published once however often it is sent"})
    critical = Flag(metadata={"description": "delivered until acknowledged"})


class PublishThought(PublishOptions):
    """A thought, to `agent:{agentId}`."""

    type = Choice(["agent-thought"], required=True)
    data = fields.Nested(AgentThoughtSchema, required=True)


class PublishTask(PublishOptions):
    """A task's state, to `task:{taskId}`."""

    type = Choice(["task-update"], required=True)
    data = fields.Nested(TaskUpdateSchema, required=True)


class PublishProject(PublishOptions):
    """An event under its own name, to `project:{projectId}`."""

    type = Choice(["project-event"], required=True)
    projectId = RoomId(required=True)
    event = Name(required=True, metadata={"not": {"enum": sorted(RESERVED_PROJECT_EVENTS)}})
    data = AnyJson(load_default=None, allow_none=True)


class ReceiptAnswer(Strict):
    """What became of a publish: `accepted` by Redis, `queued` in this worker while Redis is away, or `local_only`."""

    id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    duplicate = fields.Boolean(required=True, metadata={"description": "the key had been published before"})
    positions = fields.Dict(fields.String(), fields.Nested(PositionAnswer), required=True)


class ReceiptsAnswer(Strict):
    """The receipts of a batch, in its order."""

    receipts = fields.List(fields.Nested(ReceiptAnswer), required=True)


class AnyEvent:
    """One event, by its `type`."""

    def __init__(self, *schemas: type[PublishOptions]) -> None:
        self._schemas: dict[object, PublishOptions] = {
            one.fields["type"].choices[0]: one for one in (schema() for schema in schemas)}  # type: ignore[attr-defined]

    def parse(self, payload: object, what: str) -> dict[str, Any]:
        """As `Body.parse`."""
        if not isinstance(payload, dict):
            raise PayloadError(f"{what} must be an object", {what: ["must be an object"]})
        kind = payload.get("type")
        schema = self._schemas.get(kind) if isinstance(kind, str) else None
        if schema is None:
            problem = f"must be one of {', '.join(map(str, self._schemas))}"
            raise PayloadError(f"{what}: type {problem}", {"type": [problem]})
        event: dict[str, Any] = load(schema, payload, what)
        return event

    def described(self, named: Callable[[type[Schema]], Json]) -> Json:
        """As `Body.described`."""
        return {"oneOf": [named(type(schema)) for schema in self._schemas.values()]}


class Batch:
    """`{events: [...]}`, 1 to 500, all judged before the first is published."""

    def __init__(self, event: AnyEvent) -> None:
        self._event = event

    def parse(self, payload: object, what: str) -> list[dict[str, Any]]:
        """As `Body.parse`."""
        if not isinstance(payload, dict) or payload.keys() != {"events"} or not isinstance(payload["events"], list):
            raise PayloadError(f"{what} is {{events: [...]}}", {"events": ["must be a list, and the only field"]})
        if not 1 <= len(payload["events"]) <= MAX_BATCH:
            raise PayloadError(f"{what} has 1 to {MAX_BATCH} events", {"events": [f"has {len(payload['events'])}"]})
        return [self._event.parse(item, f"events.{number}") for number, item in enumerate(payload["events"])]

    def described(self, named: Callable[[type[Schema]], Json]) -> Json:
        """As `Body.described`."""
        return {"type": "object", "required": ["events"], "additionalProperties": False, "properties": {
            "events": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": self._event.described(named)}}}


EVENT: Final = AnyEvent(PublishThought, PublishTask, PublishProject)


@api_publish.serve("POST", "/publish", ReceiptAnswer, scopes=("publish",), body=EVENT, what="the event",
                   answers={202: ReceiptAnswer}, parameters=(IDEMPOTENCY,))
def publish(body: dict[str, Any]) -> Response:
    """One event; 200 with its receipt, 202 while it waits for Redis (`queued`, `local_only`)."""
    return _published([_call(body, _header_key())], many=False)


@api_publish.serve("POST", "/publish/batch", ReceiptsAnswer, scopes=("publish",), body=Batch(EVENT), what="a batch",
                   answers={202: ReceiptsAnswer}, parameters=(IDEMPOTENCY,))
def publish_batch(body: list[dict[str, Any]]) -> Response:
    """`{events: [...]}`, 1 to 500, all judged before the first is published."""
    key = _header_key()
    return _published([_call(item, f"{key}#{number}" if key else "") for number, item in enumerate(body)], many=True)


def _header_key() -> str:
    """The Idempotency-Key, with or without the quotes of a structured field (RFC 8941 section 3.3.3)."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return ""
    if not re.fullmatch(IDEMPOTENCY_KEY, given):
        problem = f"must be 1 to {BATCH_KEY} visible ASCII characters"
        raise PayloadError(f"Idempotency-Key {problem}", {"Idempotency-Key": [problem]})
    return given.strip('"') if given[0] == '"' else given


def _call(item: dict[str, Any], key: str) -> tuple[Any, ...]:
    """The call that `Publisher.draft` understands; an event's own `key` goes before the header's."""
    options = {"key": _own_key(item.get("key", key))}
    options |= {name: item[name] for name in ("priority", "critical") if name in item}
    if "alsoTo" in item:
        options["also_to"] = item["alsoTo"]
    if item["type"] == "project-event":
        return (item["type"], item["projectId"], item["event"], item["data"], options)
    return (item["type"], item["data"], options)


def _own_key(key: str) -> str:
    """An idempotency key in the name space of the API key that uses it: nobody's request is answered with the receipt
    of somebody else's event."""
    if not key:
        return ""
    return f"{g.wsapp_api_key.name}:{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"


def _published(calls: list[tuple[Any, ...]], *, many: bool) -> Response:
    server = the_server()
    drafts = [_draft(server, call, f"events.{number}" if many else "") for number, call in enumerate(calls)]
    receipts = [_content(receipt) for receipt in server.publish_many(drafts)]
    status = 200 if all(receipt["status"] == "accepted" for receipt in receipts) else 202
    return answer({"receipts": receipts} if many else receipts[0], status)


def _draft(server: Any, call: tuple[Any, ...], where: str) -> Any:
    try:
        return server.draft(call)
    except PayloadError as error:
        raise PayloadError(f"{where}: {error}" if where else str(error), error.fields) from None


def _content(receipt: Receipt) -> dict[str, object]:
    return {"id": receipt.id, "status": receipt.status, "duplicate": receipt.duplicate,
            "positions": {room: {"epoch": at.epoch, "seq": at.seq} for room, at in receipt.positions.items()}}
