"""The OpenAPI 3.1 document of the server API, made from the marshmallow schemas that judge it."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from wsapp.blueprints import api_schemas as schemas
from wsapp.blueprints.api_access import PATH, PROBLEM
from wsapp.blueprints.api_drain import DrainBody, WorkersServiceSchema
from wsapp.schemas import AgentThoughtSchema, TaskUpdateSchema

VERSION: Final = "1.0.0"
_KEYED: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"header": []}]
_ROOM: Final = {"name": "room", "in": "path", "required": True,
                "description": "`agent:<id>`, `task:<id>` or `project:<id>`; slashes may stand as they are",
                "schema": {"type": "string",
                           "pattern": "^(agent|task|project):[^\\s\\x00-\\x1f\\x7f-\\x9f/?#%]{1,200}$"}}
_IDEMPOTENCY: Final = {"name": "Idempotency-Key", "in": "header", "required": False,
                       "description": "repeating a request with it publishes nothing twice (5 minutes)",
                       "schema": {"type": "string", "pattern": schemas.IDEMPOTENCY_KEY}}


def openapi_plugin() -> MarshmallowPlugin:
    """marshmallow for apispec, with our own fields describing themselves."""
    return MarshmallowPlugin(schema_name_resolver=_schema_name)


def _schema_name(schema: Any) -> str:
    name: str = schema.__name__ if isinstance(schema, type) else type(schema).__name__
    return name.removesuffix("Schema").removesuffix("Answer")


def describe_field(_converter: Any, field: Any, **_: Any) -> dict[str, Any]:
    """The JSON Schema of a field that has its own (`json_schema`)."""
    own = getattr(field, "json_schema", None)
    if own is None:
        return {}
    told: dict[str, Any] = own()
    if field.allow_none and "type" in told:
        types = told["type"] if isinstance(told["type"], list) else [told["type"]]
        told["type"] = [*types, "null"]
    return told


def new_spec(title: str) -> tuple[APISpec, MarshmallowPlugin]:
    """An empty document and the plugin that fills its schemas."""
    plugin = openapi_plugin()
    spec = APISpec(title, VERSION, "3.1.0", plugins=[plugin])
    plugin.converter.add_attribute_function(describe_field)  # type: ignore[union-attr]  # made by APISpec
    return spec, plugin


@cache
def openapi() -> dict[str, Any]:
    """The document."""
    spec, _ = new_spec("wsapp server API")
    spec.options["servers"] = [{"url": PATH}]
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme("header", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    spec.components.schema("AgentThought", schema=AgentThoughtSchema)
    spec.components.schema("TaskUpdate", schema=TaskUpdateSchema)
    spec.components.response("Problem", {"description": "refused", "content": {PROBLEM: {
        "schema": schemas.ProblemSchema}}})
    _publish_paths(spec)
    _room_paths(spec)
    _operation_paths(spec)
    _drain_paths(spec)
    _critical_paths(spec)
    _document_paths(spec)
    told = spec.to_dict()
    made = told["components"]["schemas"]
    made["Disconnect"]["oneOf"] = _one_of("userId", "session", "sid")
    made["Revoke"] |= {"oneOf": _one_of("jti", "userId", "session"), "not": {"required": ["until", "ttl"]}}
    made["DeadLetterChoice"]["oneOf"] = [
        {"required": ["id"], "not": {"required": ["all"]}},
        {"required": ["all"], "properties": {"all": {"const": True}},
         "not": {"anyOf": [{"required": ["id"]}, {"required": ["userId"]}]}}]
    continue_by_id(told["components"]["schemas"]["AgentThought"])
    return told


def _one_of(*names: str) -> list[dict[str, list[str]]]:
    return [{"required": [name]} for name in names]


def continue_by_id(thought: dict[str, Any]) -> None:
    """What no field can say alone: a delta continues the thought that `thoughtId` names, and only a delta may be
    empty."""
    thought["anyOf"] = [{"properties": {"delta": {"const": False}, "thought": {"minLength": 1}}},
                        {"required": ["delta", "thoughtId"],
                         "properties": {"delta": {"const": True}, "thoughtId": {"type": ["string", "integer"]}}}]


def _operation(id: str, summary: str, scope: str, *, ok: type[Schema], body: object = None, status: str = "200",
               parameters: list[Any] | None = None, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {"application/json": {"schema": ok}}
    told: dict[str, Any] = {
        "operationId": id, "summary": summary, "description": f"Needs the scope {scope}.", "security": _KEYED,
        "parameters": parameters or [],
        "responses": {status: {"description": "done", "content": content}, **(extra or {}), "default": "Problem"}}
    for code in ("400", "401", "403", "404", "405", "406", "413", "415", "422", "503"):
        told["responses"].setdefault(code, "Problem")
    if body is not None:
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return told


def _query(schema: type[Schema]) -> dict[str, Any]:
    return {"in": "query", "schema": schema}


def _publish_paths(spec: APISpec) -> None:
    for name in ("PublishThought", "PublishTask", "PublishProject"):
        spec.components.schema(name, schema=getattr(schemas, name))
    one = {"oneOf": [{"$ref": f"#/components/schemas/{name}"}
                     for name in ("PublishThought", "PublishTask", "PublishProject")]}
    queued = {"202": {"description": "taken by this worker, waits for Redis",
                      "content": {"application/json": {"schema": schemas.ReceiptSchema}}}}
    spec.path("/publish", operations={"post": _operation(
        "publish", "Publish one event", "publish", ok=schemas.ReceiptSchema, body=one, parameters=[_IDEMPOTENCY],
        extra=queued)})
    many = {"type": "object", "required": ["events"], "additionalProperties": False, "properties": {
        "events": {"type": "array", "minItems": 1, "maxItems": schemas.MAX_BATCH, "items": one}}}
    queued_many = {"202": {"description": "taken by this worker, waits for Redis",
                           "content": {"application/json": {"schema": schemas.ReceiptsSchema}}}}
    spec.path("/publish/batch", operations={"post": _operation(
        "publishBatch", "Publish up to 500 events, judged together", "publish", ok=schemas.ReceiptsSchema, body=many,
        parameters=[_IDEMPOTENCY], extra=queued_many)})


def _room_paths(spec: APISpec) -> None:
    spec.path("/rooms", operations={"get": _operation(
        "listRooms", "Rooms with somebody in them", "read", ok=schemas.RoomsSchema,
        parameters=[_query(schemas.RoomsQuery)])})
    spec.path("/rooms/{room}/history", operations={"get": _operation(
        "readHistory", "A page of a room's history; ETag and If-None-Match", "read", ok=schemas.HistorySchema,
        parameters=[_ROOM, _query(schemas.HistoryQuerySchema)], extra={"304": {"description": "nothing new"}})})
    spec.path("/rooms/{room}/presence", operations={"get": _operation(
        "readPresence", "Who watches a room", "read or publish", ok=schemas.PresenceSchema, parameters=[_ROOM])})


def _operation_paths(spec: APISpec) -> None:
    spec.path("/connections", operations={"get": _operation(
        "listConnections", "Live connections", "admin", ok=schemas.ConnectionsSchema,
        parameters=[_query(schemas.WhoQuery)])})
    spec.path("/sessions", operations={"get": _operation(
        "listSessions", "Live sessions", "admin", ok=schemas.SessionsSchema, parameters=[_query(schemas.WhoQuery)])})
    spec.path("/disconnect", operations={"post": _operation(
        "disconnect", "Throw out a user, a session or a connection", "admin", ok=schemas.DisconnectedSchema,
        body=schemas.Disconnect)})
    spec.path("/revoke", operations={"post": _operation(
        "revoke", "Refuse a token id, a user's tokens so far, or a session, and close their connections", "admin",
        ok=schemas.RevokedSchema, body=schemas.Revoke)})
    spec.path("/stats", operations={"get": _operation(
        "readStats", "Counters", "read or admin", ok=schemas.StatsSchema)})


def _drain_paths(spec: APISpec) -> None:
    spec.path("/drain", operations={
        "get": _operation("readDrain", "How every worker stands: serving, draining, drained", "drain or admin",
                          ok=WorkersServiceSchema),
        "post": _operation("drain", "Take workers out of service, or back", "drain", ok=WorkersServiceSchema,
                           body=DrainBody, status="202")})


def _critical_paths(spec: APISpec) -> None:
    id = {"name": "id", "in": "path", "required": True, "description": "of a receipt",
          "schema": {"type": "string", "pattern": f"^{schemas.EVENT_ID}$"}}
    spec.path("/deliveries/{id}", operations={"get": _operation(
        "readDelivery", "How a critical event stands, at once or when it is settled", "publish or read",
        ok=schemas.DeliverySchema, parameters=[id, _query(schemas.DeliveryQuery)])})
    spec.path("/dead-letters", operations={"get": _operation(
        "listDeadLetters", "Critical events that were not acknowledged, oldest first", "admin",
        ok=schemas.DeadLettersSchema, parameters=[_query(schemas.DeadLettersQuery)])})
    spec.path("/dead-letters/requeue", operations={"post": _operation(
        "requeueDeadLetters", "Deliver dead letters again", "admin", ok=schemas.RequeuedSchema,
        body=schemas.DeadLetterChoice)})
    spec.path("/dead-letters/discard", operations={"post": _operation(
        "discardDeadLetters", "Forget dead letters", "admin", ok=schemas.DiscardedSchema,
        body=schemas.DeadLetterChoice)})


def _document_paths(spec: APISpec) -> None:
    for name in ("openapi", "asyncapi"):
        spec.path(f"/{name}.json", operations={"get": {
            "operationId": name, "summary": f"The {name} document", "security": [],
            "responses": {"200": {"description": "the document",
                                  "content": {"application/json": {"schema": {"type": "object"}}}},
                          "304": {"description": "nothing new"}, "default": "Problem"}}})
    spec.path("/stream", operations={"get": {
        "operationId": "stream", "summary": "Rooms as Server-Sent Events", "security": [],
        "description": "A stream that does not end; see docs/http-api.md. Authenticated as a client, not by API key.",
        "parameters": [
            {"name": "rooms", "in": "query", "schema": {"type": "string"}, "description": "comma list of rooms"},
            {"name": "room", "in": "query", "schema": {"type": "string"}, "description": "one room; may be repeated"},
            {"name": "since", "in": "query", "schema": {"type": "string"},
             "description": "an id of the stream, or a comma list of room:seq"},
            {"name": "presence", "in": "query", "schema": {"type": "boolean"},
             "description": "tell who else is in the rooms, and who comes and goes"},
            {"name": "token", "in": "query", "schema": {"type": "string"}},
            {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}],
        "responses": {"200": {"description": "the stream", "content": {"text/event-stream": {
            "schema": {"type": "string"}}}}, "default": "Problem"}}})
    for verb, summary, ok in (("ack", "A stream's user has a critical event", schemas.AcknowledgedSchema),
                              ("nack", "A stream's user wants a critical event again", schemas.RefusedEventSchema)):
        told = _operation(f"{verb}Event", summary, "", ok=ok, body=schemas.Acknowledgement)
        told |= {"security": [], "description": "By the user's token; without tokens by the stream's sessionId."}
        spec.path(f"/stream/{verb}", operations={"post": told})
