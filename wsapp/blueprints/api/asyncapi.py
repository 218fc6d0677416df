"""The AsyncAPI 3.0 document: what clients send and get on a socket, and what a stream of Server-Sent Events has.

Requests, and the data of thoughts and task updates, are described by the schemas that judge them, acknowledgements by
those beside the handlers; tests hold all of it against real traffic.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from marshmallow import INCLUDE, Schema

from wsapp import schemas
from wsapp.auth import MAX_TOKEN
from wsapp.blueprints.api.access import PATH
from wsapp.blueprints.api.openapi import VERSION, components, new_spec
from wsapp.blueprints.subscriptions import MembersAnswer, PositionAnswer
from wsapp.errors import CloseCode, ErrorCode
from wsapp.runtime.event_blueprint import MAX_LIST, Event
from wsapp.schemas import STATUSES

Json = dict[str, Any]

_SEQ: Final[Json] = {"type": "integer", "minimum": 0}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_TEXT: Final[Json] = {"type": "string"}
_FLAG: Final[Json] = {"type": "boolean"}
_OK: Final[Json] = {"type": "object", "additionalProperties": False}
_TEXTS: Final[Json] = {"type": "array", "items": _TEXT}


def _object(required: Json, optional: Json | None = None, *, open: bool = False) -> Json:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})},
            "additionalProperties": open}


def _map(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_REFUSAL: Final = _object({"ok": {"const": False}, "error": _ref("Error")})
_ERROR: Final = _object({"code": {"type": "string", "enum": [str(code) for code in ErrorCode]}, "message": _TEXT,
                         "retryable": _FLAG}, {"fields": {"type": "object"}})
_META: Final = _object({"id": _TEXT, "ts": _COUNT, "epoch": _TEXT, "rooms": _map(_SEQ)},
                       {"epochs": _map(_TEXT), "critical": {"const": True}})
_MODE: Final[Json] = {"type": "string", "enum": ["normal", "degraded", "catching_up"]}
_TOKEN: Final = {"type": "string", "minLength": 1, "maxLength": MAX_TOKEN}


class _Requests:
    """Payloads and acknowledgements of clients' events, made from the schemas that judge and describe them."""

    def __init__(self) -> None:
        self._spec, self._converter = new_spec("")
        self._spec.components.schema("Position", schema=PositionAnswer)
        self._spec.components.schema("Members", schema=MembersAnswer)

    def payload(self, event: Event) -> Json:
        """What a client may send."""
        if event.schema is None or not (event.schema.fields or event.schema.unknown == INCLUDE):
            return {}
        body = self._described(event.schema)
        bare = event.schema.bare
        one = [body["properties"][bare], body] if bare else [body]
        more = [{"type": "array", "minItems": 1, "maxItems": MAX_LIST, "items": {}}] if event.lists else []
        return {"oneOf": [*one, *more]} if len(one) + len(more) > 1 else body

    def answer(self, event: Event) -> Json:
        """What the client gets."""
        done = _OK if event.answer is None else self._described(event.answer())
        done = {**done, "properties": {"ok": {"const": True}, **done.get("properties", {})},
                "required": ["ok", *done.get("required", ())]}
        answers = [done, _ref("Refusal")]
        if event.lists:
            items = {"type": "array", "items": {"oneOf": answers}}
            answers = [*answers, _object({"ok": {"const": True}, "rooms": items})]
        return {"oneOf": answers}

    def _described(self, schema: Schema) -> Json:
        described: Json = self._converter.schema2jsonschema(schema)
        return {"type": "object", **described}

    def components(self) -> Json:
        """The schemas that the others refer to."""
        return components(self._spec, self._converter)


# What the server sends beside the events that are published.
SERVER_EVENTS: Final[dict[str, Json]] = {
    "session": _object({"sessionId": _TEXT, "recovered": _FLAG, "missed": _COUNT},
                       {"skipped": _COUNT, "reason": _TEXT, "rooms": _map(_ref("Position")), "notRestored": _TEXTS}),
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
    "token": _TOKEN, "sessionId": _TEXT, "wsapp": {"const": 1},
    "positions": _map(_ref("Position"))}}


def _published() -> dict[str, Json]:
    """The events of publishers: their data as clients get it."""
    spec, converter = new_spec("")
    spec.components.schema("AgentThought", schema=schemas.AgentThoughtSchema)
    spec.components.schema("TaskUpdate", schema=schemas.TaskUpdateSchema)
    made = components(spec, converter)
    numbered = {"id": _TEXT, "seq": {"type": "integer", "minimum": 1}}
    joined = {**numbered, "firstSeq": numbered["seq"]}
    thought, task = ({"allOf": [made[name], {"required": ["timestamp", "id", "seq"], "properties": more}]}
                     for name, more in (("AgentThought", joined), ("TaskUpdate", numbered)))
    return {"agent-thought": {"oneOf": [thought, {"type": "array", "minItems": 1, "items": thought}]},
            "task-update": task, "project-event": {}}


@cache
def describe(events: tuple[Event, ...]) -> Json:
    """The document; `events` are those that clients may send."""
    published, requests = _published(), _Requests()
    payloads = {**published, **SERVER_EVENTS, **STREAM, "connect": _AUTH, "connect-error": _ref("Error")}
    payloads |= {event.name: requests.payload(event) for event in events}
    payloads |= {f"{event.name}-ack": requests.answer(event) for event in events}
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
            **{name: _operation("send", "root", name) for name in (*published, *SERVER_EVENTS)},
            "connect": _replied("connect", "connect-error"),
            **{event.name: _replied(event.name, f"{event.name}-ack") for event in events},
            "stream": _operation("send", "stream", *ON_STREAMS)},
        "components": {"messages": messages, "schemas": {
            **requests.components(), "Error": _ERROR, "Refusal": _REFUSAL, "Meta": _META}},
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
