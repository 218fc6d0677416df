"""The AsyncAPI 3.0 document of the socket events: what clients send, what they are told, in the plain profile."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from wsapp import schemas
from wsapp.blueprints.api_openapi import VERSION, continue_by_id, new_spec
from wsapp.schemas import KINDS, NAME_PATTERN, STATUSES

_NAME: Final[dict[str, Any]] = {"type": ["string", "integer"], "minLength": 1, "maxLength": schemas.MAX_ID,
                                "pattern": NAME_PATTERN}
_SEQ: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_TEXT: Final[dict[str, Any]] = {"type": "string"}
_FLAG: Final[dict[str, Any]] = {"type": "boolean"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None, *, open: bool = False) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})},
            "additionalProperties": open}


_POSITION: Final = _object({"epoch": _TEXT, "seq": _SEQ})
_REFUSAL: Final = _object({"ok": {"const": False}, "error": _object(
    {"code": _TEXT, "message": _TEXT, "retryable": _FLAG}, {"fields": {"type": "object"}})})


def _ack(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"oneOf": [_object({"ok": {"const": True}, **required}, optional), _REFUSAL]}


_EVENT: Final = _object({"event": _TEXT, "data": True, "id": _TEXT, "ts": _SEQ, "seq": _SEQ})
_MEMBERS: Final = _object({"users": _SEQ, "connections": _SEQ, "members": {"type": "array", "items": _TEXT}})
_SUBSCRIBE: Final = {"oneOf": [_NAME, _object({"id": _NAME}, {
    "since": {"oneOf": [_SEQ, _POSITION, {"type": "null"}]}, "presence": _FLAG})]}
_BY_ID: Final = {"oneOf": [_NAME, _object({"id": _NAME})]}

# What clients send: payload and acknowledgement.
REQUESTS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    **{f"subscribe-{kind}": (_SUBSCRIBE, _ack({"room": _TEXT, "epoch": _TEXT, "seq": _SEQ}, {
        "recovered": _FLAG, "missed": _SEQ, "reason": _TEXT, "presence": _MEMBERS})) for kind in KINDS},
    **{f"unsubscribe-{kind}": (_BY_ID, _ack({"room": _TEXT})) for kind in KINDS},
    "update-metadata": ({"type": "object"}, _ack({"metadata": {"type": "object"}})),
    "set-rate": (_object({"rate": {"type": "number", "exclusiveMinimum": 0, "maximum": schemas.MAX_RATE}}),
                 _ack({"rate": {"type": "number"}})),
    "history": (_object({"room": _NAME}, {
        "since": {**_SEQ, "type": ["integer", "null"]}, "before": {**_SEQ, "type": ["integer", "null"]},
        "limit": {"type": "integer", "minimum": 1, "maximum": schemas.MAX_HISTORY}, "epoch": _TEXT}),
        _ack({"room": _TEXT, "epoch": _TEXT, "seq": _SEQ, "first": _SEQ, "events": {
            "type": "array", "items": _EVENT}})),
}

_NUMBERED: Final = {"id": _TEXT, "seq": {"type": "integer", "minimum": 1}}


def _told() -> dict[str, dict[str, Any]]:
    """What clients are told: the data of each event."""
    spec, _ = new_spec("")
    spec.components.schema("AgentThought", schema=schemas.AgentThoughtSchema)
    spec.components.schema("TaskUpdate", schema=schemas.TaskUpdateSchema)
    made = spec.to_dict()["components"]["schemas"]
    continue_by_id(made["AgentThought"])
    thought = {"allOf": [made["AgentThought"], {"required": ["timestamp"], "properties": _NUMBERED}]}
    task = {"allOf": [made["TaskUpdate"], {"required": ["timestamp"], "properties": _NUMBERED}]}
    return {
        "agent-thought": {"oneOf": [thought, {"type": "array", "minItems": 1, "items": thought}]},
        "task-update": task,
        "session": _object({"sessionId": _TEXT, "recovered": _FLAG, "missed": _SEQ}, {
            "reason": _TEXT, "rooms": {"type": "object", "additionalProperties": _POSITION}}, open=True),
        "shed": _object({"room": _TEXT, "from": _SEQ, "to": _SEQ, "count": _SEQ, "reason": _TEXT}, open=True),
        "resync": _object({"room": _TEXT, "epoch": _TEXT, "seq": _SEQ, "reason": _TEXT, "missed": _SEQ}),
        "presence": _object({"room": _TEXT, "joined": {"type": "array", "items": _TEXT},
                             "left": {"type": "array", "items": _TEXT}, "users": _SEQ, "connections": _SEQ}),
        "mode": _object({"mode": {"type": "string", "enum": ["normal", "degraded", "catching_up"]}}),
        "server-shutdown": _object({"retryAfterMs": _SEQ}),
    }


@cache
def asyncapi() -> dict[str, Any]:
    """The document."""
    told = _told()
    messages: dict[str, Any] = {name: _message(name, payload) for name, payload in told.items()}
    messages |= {name: _message(name, payload) for name, (payload, _) in REQUESTS.items()}
    messages |= {f"{name}-ack": _message(f"{name}-ack", ack) for name, (_, ack) in REQUESTS.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "wsapp socket events", "version": VERSION, "description": (
            "Socket.IO v5 on /socket.io/, namespace /. A message's payload is the event's first argument; the "
            "acknowledgement of a request `x` is the message `x-ack`. Project events come under their own names with "
            f"any JSON. Task states: {', '.join(STATUSES)}.")},
        "defaultContentType": "application/json",
        "channels": {"root": {"address": "/", "messages": {
            name: {"$ref": f"#/components/messages/{name}"} for name in messages}}},
        "operations": {**{name: _operation("send", name) for name in told},
                       **{name: {**_operation("receive", name), "reply": {
                           "channel": {"$ref": "#/channels/root"},
                           "messages": [{"$ref": f"#/channels/root/messages/{name}-ack"}]}} for name in REQUESTS}},
        "components": {"messages": messages},
    }


def _message(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "payload": payload}


def _operation(action: str, name: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": "#/channels/root"},
            "messages": [{"$ref": f"#/channels/root/messages/{name}"}]}
