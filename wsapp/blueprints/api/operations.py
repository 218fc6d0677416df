"""Connections, sessions, throwing out, and counters: the operator's part of the server API.

To add an operation on all workers: a verb in `wsapp.runtime.operations`, a view here that merges the answers.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar, Final

from flask import Response, g
from marshmallow import ValidationError, fields, validate, validates_schema

from wsapp.blueprints.api.access import answer, the_server
from wsapp.blueprints.api.endpoints import ApiBlueprint, Json, PageAnswer, Whole, WhoQuery, count, one_of
from wsapp.blueprints.subscriptions import PositionAnswer
from wsapp.schemas import MAX_MS, AnyJson, Strict, Text

api_operations = ApiBlueprint("operations", __name__)

MAX_TTL: Final = 315_360_000  # seconds: ten years
SOONEST_END: Final = 1.0  # seconds that a revocation holds at least: it has to reach every worker


class Disconnect(Strict):
    """Whom to throw out: all of a user, one session by its public name, or one connection."""

    described: ClassVar[Json] = one_of("userId", "session", "sid")

    userId = Text(validate=validate.Length(1, 500))
    session = Text(validate=validate.Length(1, 100))
    sid = Text(validate=validate.Length(1, 100))
    reason = Text(validate=validate.Length(0, 100), load_default="thrown out by the operator")

    @validates_schema
    def _one(self, data: dict[str, Any], **_: Any) -> None:
        if len({"userId", "session", "sid"} & set(data)) != 1:
            raise ValidationError("give one of userId, session and sid", "userId")


class Revoke(Strict):
    """What is refused from now on: a token id, a user's tokens issued so far, or a session, by its token's `sid` or its
    public name.  Until `until` or for `ttl` seconds; by default for WSAPP_REVOCATION_TTL."""

    described: ClassVar[Json] = {**one_of("jti", "userId", "session"), "not": {"required": ["until", "ttl"]}}

    jti = Text(validate=validate.Length(1, 200))
    userId = Text(validate=validate.Length(1, 200))
    session = Text(validate=validate.Length(1, 200))
    until = Whole(0, MAX_MS, metadata={"description": "ms since 1970, at least a second from now"})
    ttl = Whole(1, MAX_TTL, metadata={"description": "seconds"})

    @validates_schema
    def _one(self, data: dict[str, Any], **_: Any) -> None:
        if len({"jti", "userId", "session"} & set(data)) != 1:
            raise ValidationError("give one of jti, userId and session", "jti")
        if {"until", "ttl"} <= set(data):
            raise ValidationError("give until or ttl, not both", "until")


class ConnectionAnswer(Strict):
    """One live connection.  `session` is the session's public name, not the secret that resumes it."""

    sid = fields.String(required=True)
    session = fields.String(required=True)
    userId = fields.String(required=True)
    worker = fields.String(required=True)
    profile = fields.String(required=True)
    rooms = fields.List(fields.String(), required=True)
    connectedFor = fields.Float(required=True, metadata={"description": "seconds"})
    silentFor = fields.Float(required=True, metadata={"description": "seconds"})
    received = count("messages from the client")
    sent = count("frames to the client")
    backlog = count("bytes that wait for the client")


class ConnectionsAnswer(PageAnswer):
    """Connections, by sid."""

    connections = fields.List(fields.Nested(ConnectionAnswer), required=True)


class SessionAnswer(Strict):
    """One live session: its metadata and confirmed positions."""

    session = fields.String(required=True)
    sid = fields.String(required=True)
    userId = fields.String(required=True)
    worker = fields.String(required=True)
    metadata = fields.Dict(fields.String(), AnyJson(), required=True)
    positions = fields.Dict(fields.String(), fields.Nested(PositionAnswer), required=True)


class SessionsAnswer(PageAnswer):
    """Sessions, by public name."""

    sessions = fields.List(fields.Nested(SessionAnswer), required=True)


class DisconnectedAnswer(Strict):
    """How many connections were closed."""

    disconnected = count("connections")
    missing = fields.List(fields.String(), required=True)


class RevokedAnswer(Strict):
    """Until when it is refused."""

    until = count("ms since 1970")
    missing = fields.List(fields.String(), required=True, metadata={
        "description": "workers that did not answer whether the session is theirs"})


class StatsAnswer(Strict):
    """Counters of this worker and of the cluster (null while Redis is away)."""

    mode = fields.String(required=True)
    worker = fields.Dict(fields.String(), fields.Float(), required=True)
    cluster = fields.Dict(fields.String(), fields.Float(), required=True, allow_none=True)


@api_operations.serve("GET", "/connections", ConnectionsAnswer, scopes=("admin",), query=WhoQuery())
def list_connections(query: dict[str, Any]) -> Response:
    """The live connections of the cluster."""
    return _listed("connections", "sid", query)


@api_operations.serve("GET", "/sessions", SessionsAnswer, scopes=("admin",), query=WhoQuery())
def list_sessions(query: dict[str, Any]) -> Response:
    """The live sessions of the cluster, with metadata and positions."""
    return _listed("sessions", "session", query)


def _listed(what: str, key: str, chosen: dict[str, Any]) -> Response:
    found = the_server().api.calls.ask(what, chosen)
    merged: list[dict[str, Any]] = [{**one, "worker": boot} for boot, ones in found.by_boot.items() for one in ones]
    merged.sort(key=lambda one: str(one[key]))
    page = merged[:chosen["limit"]]
    more = len(merged) > len(page) or any(len(ones) >= chosen["limit"] for ones in found.values)
    return answer({what: page, "next": page[-1][key] if more else None, "missing": found.missing})


@api_operations.serve("POST", "/disconnect", DisconnectedAnswer, scopes=("admin",), body=Disconnect(),
                      what="disconnect")
def disconnect(body: dict[str, Any]) -> Response:
    """Throw out a user, a session or a connection, wherever it is: close code 4502, and nothing to resume."""
    found = the_server().api.calls.ask("disconnect", {
        "user": body.get("userId"), "session": body.get("session"), "sid": body.get("sid"),
        "reason": body["reason"]})
    return answer({"disconnected": sum(found.values), "missing": found.missing})


@api_operations.serve("POST", "/revoke", RevokedAnswer, scopes=("admin",), body=Revoke(), what="revoke")
def revoke(body: dict[str, Any]) -> Response:
    """Refuse a token id, a user or a session from now on, and close what is connected with it: close code 4501."""
    server, now = the_server(), time.time()
    until = body["until"] / 1000 if "until" in body else now + body.get("ttl", server.settings.revocation_ttl)
    until = max(until, now + SOONEST_END)
    missing = _revoke(server.hub.admission, body, until)
    return answer({"until": round(until * 1000), "missing": missing})


def _revoke(admission: Any, chosen: dict[str, Any], until: float) -> list[str]:
    """Revoke what is named; the workers that did not answer about a session's public name."""
    by = f"key {g.wsapp_api_key.name!r}"
    admission.revoke(jti=chosen.get("jti"), user=chosen.get("userId"), session=chosen.get("session"), until=until,
                     by=by)
    if "session" not in chosen:
        return []
    found = the_server().api.calls.ask("entries", {"session": chosen["session"]})
    for entry in {entry for entries in found.values for entry in entries}:
        admission.revoke_entry(entry, until)
    missing: list[str] = found.missing
    return missing


@api_operations.serve("GET", "/stats", StatsAnswer, scopes=("read", "admin"))
def read_stats() -> Response:
    """The counters of this worker and of the cluster."""
    server = the_server()
    facts = server.get_metrics()
    return answer({"mode": server.mode, "worker": facts["worker"], "cluster": facts["cluster"]})
