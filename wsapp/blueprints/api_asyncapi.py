"""The AsyncAPI 3.0 document: what clients send on a socket and are told, and what a stream of Server-Sent Events tells.

The thoughts' and task updates' schemas are made from those that judge them; tests hold every other against real
traffic.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from wsapp import schemas
from wsapp.blueprints.api_access import PATH
from wsapp.blueprints.api_openapi import VERSION, continue_by_id, new_spec
from wsapp.core.ports import Fate
from wsapp.core.throttle import MIN_RATE
from wsapp.errors import CloseCode, ErrorCode
from wsapp.schemas import KINDS, NAME_PATTERN, ROOM_ID_PATTERN, STATUSES

Json = dict[str, Any]

_NAME: Final[Json] = {"type": ["string", "integer"], "minLength": 1, "maxLength": schemas.MAX_ID,
                      "pattern": NAME_PATTERN}
_ROOM_ID: Final[Json] = {**_NAME, "pattern": ROOM_ID_PATTERN}
_SEQ: Final[Json] = {"type": "integer", "minimum": 0}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_TEXT: Final[Json] = {"type": "string"}
_FLAG: Final[Json] = {"type": "boolean"}
_TEXTS: Final[Json] = {"type": "array", "items": _TEXT}


def _object(required: Json, optional: Json | None = None, *, open: bool = False) -> Json:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})},
            "additionalProperties": open}


def _map(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_POSITION: Final = _object({"epoch": _TEXT, "seq": _SEQ})
_REFUSAL: Final = _object({"ok": {"const": False}, "error": _ref("Error")})
_ERROR: Final = _object({"code": {"type": "string", "enum": [str(code) for code in ErrorCode]}, "message": _TEXT,
                         "retryable": _FLAG}, {"fields": {"type": "object"}})
_EVENT: Final = _object({"event": _TEXT, "data": True, "id": _TEXT, "ts": _COUNT, "seq": _SEQ})
_META: Final = _object({"id": _TEXT, "ts": _COUNT, "epoch": _TEXT, "rooms": _map(_SEQ)},
                       {"epochs": _map(_TEXT), "critical": {"const": True}})
_MEMBERS: Final = _object({"users": _COUNT, "connections": _COUNT, "members": _TEXTS})
_SUBSCRIBE: Final = {"oneOf": [_ROOM_ID, _object({"id": _ROOM_ID}, {
    "since": {"oneOf": [_SEQ, _ref("Position"), {"type": "null"}]}, "presence": _FLAG})]}
_MODE: Final[Json] = {"type": "string", "enum": ["normal", "degraded", "catching_up"]}
_BY_ID: Final = {"oneOf": [_NAME, _object({"id": _NAME})]}
_TOKEN: Final = {"type": "string", "minLength": 1, "maxLength": schemas.MAX_TOKEN}


def _ack(required: Json, optional: Json | None = None) -> Json:
    return {"oneOf": [_done(required, optional), _ref("Refusal")]}


def _done(required: Json, optional: Json | None = None) -> Json:
    return _object({"ok": {"const": True}, **required}, optional)


def _or_list(payload: Json) -> Json:
    """One item or a list of them."""
    return {"oneOf": [payload, {"type": "array", "minItems": 1, "maxItems": schemas.MAX_LIST, "items": {}}]}


def _ack_or_acks(required: Json, optional: Json | None = None) -> Json:
    """The answer to one item, or to each of a list."""
    answer = _ack(required, optional)
    return {"oneOf": [*answer["oneOf"], _done({"rooms": {"type": "array", "items": answer}})]}


# What clients send: payload and acknowledgement.
REQUESTS: Final[dict[str, tuple[Json, Json]]] = {
    **{f"subscribe-{kind}": (_or_list(_SUBSCRIBE), _ack_or_acks({"room": _TEXT, "epoch": _TEXT, "seq": _SEQ}, {
        "recovered": _FLAG, "missed": _COUNT, "skipped": _COUNT, "reason": _TEXT,
        "presence": _ref("Members")})) for kind in KINDS},
    **{f"unsubscribe-{kind}": (_or_list(_BY_ID), _ack_or_acks({"room": _TEXT})) for kind in KINDS},
    "update-metadata": ({"type": "object"}, _ack({"metadata": {"type": "object"}})),
    "set-rate": (_object({"rate": {"type": "number", "minimum": MIN_RATE, "maximum": schemas.MAX_RATE}}),
                 _ack({"rate": {"type": "number"}})),
    "positions": ({}, _ack({"mode": _MODE, "rooms": _map(_object({"epoch": _TEXT, "seq": _SEQ, "sent": _SEQ}))})),
    "history": (_object({"room": _NAME}, {
        "since": {**_SEQ, "type": ["integer", "null"]}, "before": {**_SEQ, "type": ["integer", "null"]},
        "limit": {"type": "integer", "minimum": 1, "maximum": schemas.MAX_HISTORY}, "epoch": _TEXT}),
        _ack({"room": _TEXT, "epoch": _TEXT, "seq": _SEQ, "first": _SEQ, "events": {
            "type": "array", "items": _EVENT}})),
    "ack-event": (_BY_ID, _ack({"id": _TEXT})),
    "nack-event": (_BY_ID, _ack({"id": _TEXT, "state": {"enum": [str(Fate.PENDING), str(Fate.DEAD)]},
                                 "attempts": _COUNT})),
    "refresh-token": ({"oneOf": [_TOKEN, _object({"token": _TOKEN})]},
                      _ack({"expiresInMs": {"type": "integer"}, "lost": _TEXTS}, {"presenceLost": _TEXTS})),
}

# What clients are told beside the events that are published.
TOLD: Final[dict[str, Json]] = {
    "session": _object({"sessionId": _TEXT, "recovered": _FLAG, "missed": _COUNT},
                       {"skipped": _COUNT, "reason": _TEXT, "rooms": _map(_ref("Position"))}),
    "shed": _object({"room": _TEXT, "from": _SEQ, "to": _SEQ, "count": _COUNT, "reason": _TEXT,
                     "worstPriority": {"type": "integer", "minimum": 0, "maximum": 10}}),
    "resync": _object({"room": _TEXT, "epoch": _TEXT, "seq": _SEQ, "reason": _TEXT, "missed": _COUNT}),
    "presence": _object({"room": _TEXT, "joined": _TEXTS, "left": _TEXTS, "users": _COUNT, "connections": _COUNT},
                        {"members": _TEXTS}),
    "mode": _object({"mode": _MODE}),
    "beacon": _object({"rooms": _map(_ref("Position"))}),
    "server-shutdown": _object({"retryAfterMs": _COUNT}),
    "token-expiring": _object({"expiresInMs": {"type": "integer"}}),
    "unsubscribed": _object({"room": _TEXT, "reason": _TEXT}),
    "session-closed": _object({"code": {"type": "integer", "enum": [int(code) for code in CloseCode]},
                               "reason": _TEXT}),
    "batch": {"type": "array", "minItems": 1, "items": {
        "type": "array", "minItems": 3, "maxItems": 3, "items": [_TEXT, True, _ref("Meta")]}},
}

# What only a stream tells: its beginning, and what else it has no argument or frame for.
STREAM: Final[dict[str, Json]] = {
    "stream-session": _object({"sessionId": _TEXT, "recovered": _FLAG, "missed": _COUNT, "rooms": _map(
        _ref("Position"))}, {"reason": _TEXT, "presence": _map(_ref("Members"))}),
    "ack-wanted": _object({"id": _TEXT, "event": _TEXT}),
}
ON_STREAMS: Final = ("agent-thought", "task-update", "project-event", "shed", "resync", "presence", "mode",
                     "server-shutdown", "token-expiring", "session-closed", *STREAM)
_SUMMARIES: Final = {
    "project-event": "Comes under its own name, with any JSON; objects get `id` and `seq` unless they have their own.",
    "batch": "sdk profile, over the rate: several events `[name, data, meta]` in one.",
    "beacon": "sdk profile: where the rooms stand.",
    "stream-session": "The `session` event of a stream.",
    "ack-wanted": f"The event before it is critical: POST its id to {PATH}/stream/ack.",
    "connect": "The `auth` of CONNECT.", "connect-error": "The data of CONNECT_ERROR.",
}
_AUTH: Final = {"type": "object", "properties": {
    "token": _TOKEN, "sessionId": _TEXT, "wsapp": {"const": 1}, "recovery": {"const": "offset"},
    "positions": _map(_ref("Position"))}}


def _published() -> dict[str, Json]:
    """The events of publishers: their data as clients get it."""
    spec, _ = new_spec("")
    spec.components.schema("AgentThought", schema=schemas.AgentThoughtSchema)
    spec.components.schema("TaskUpdate", schema=schemas.TaskUpdateSchema)
    made = spec.to_dict()["components"]["schemas"]
    continue_by_id(made["AgentThought"])
    numbered = {"id": _TEXT, "seq": {"type": "integer", "minimum": 1}}
    joined = {**numbered, "firstSeq": numbered["seq"]}
    thought, task = ({"allOf": [made[name], {"required": ["timestamp", "id", "seq"], "properties": more}]}
                     for name, more in (("AgentThought", joined), ("TaskUpdate", numbered)))
    return {"agent-thought": {"oneOf": [thought, {"type": "array", "minItems": 1, "items": thought}]},
            "task-update": task, "project-event": {}}


@cache
def asyncapi() -> Json:
    """The document."""
    published = _published()
    payloads = {**published, **TOLD, **STREAM, "connect": _AUTH, "connect-error": _ref("Error")}
    payloads |= {name: payload for name, (payload, _) in REQUESTS.items()}
    payloads |= {f"{name}-ack": ack for name, (_, ack) in REQUESTS.items()}
    messages = {name: _message(name, payload) for name, payload in payloads.items()}
    for name in published:
        messages[name]["headers"] = _ref("Meta")
    on_root = [name for name in payloads if name not in STREAM]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "wsapp socket events", "version": VERSION, "description": (
            "Socket.IO v5 on /socket.io/, namespace /. A message's payload is the event's first argument, its headers "
            "are the second one of the sdk profile; the acknowledgement of a request `x` is the message `x-ack`. "
            f"Task states: {', '.join(STATUSES)}.")},
        "defaultContentType": "application/json",
        "servers": {"sockets": {"host": "localhost:3001", "pathname": "/socket.io/", "protocol": "ws"},
                    "streams": {"host": "localhost:3001", "protocol": "http"}},
        "channels": {"root": _channel("/", "sockets", on_root),
                     "stream": _channel(f"{PATH}/stream", "streams", ON_STREAMS)},
        "operations": {
            **{name: _operation("send", "root", name) for name in (*published, *TOLD)},
            "connect": _replied("connect", "connect-error"),
            **{name: _replied(name, f"{name}-ack") for name in REQUESTS},
            "stream": _operation("send", "stream", *ON_STREAMS)},
        "components": {"messages": messages, "schemas": {
            "Position": _POSITION, "Error": _ERROR, "Refusal": _REFUSAL, "Meta": _META, "Members": _MEMBERS}},
    }


def _message(name: str, payload: Json) -> Json:
    return {"name": name, "payload": payload, **({"summary": _SUMMARIES[name]} if name in _SUMMARIES else {})}


def _channel(address: str, server: str, names: Any) -> Json:
    return {"address": address, "servers": [{"$ref": f"#/servers/{server}"}],
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names}}


def _operation(action: str, channel: str, *names: str) -> Json:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]}


def _replied(name: str, answer: str) -> Json:
    return {**_operation("receive", "root", name), "reply": {
        "channel": {"$ref": "#/channels/root"}, "messages": [{"$ref": f"#/channels/root/messages/{answer}"}]}}
