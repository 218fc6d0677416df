"""Connections, sessions, throwing out, and counters: the operator's part of the server API.

To add an operation on all workers: a verb in `wsapp.runtime.operations`, a view here that merges the answers.
"""

from __future__ import annotations

import time
from typing import Any, Final

from flask import Blueprint, Response, g

from wsapp.blueprints.api_access import answer, checked, needs, query, read_body, the_server
from wsapp.blueprints.api_schemas import Disconnect, Revoke, WhoQuery

api_operations = Blueprint("operations", __name__)

_WHO: Final = WhoQuery()
_DISCONNECT: Final = Disconnect()
_REVOKE: Final = Revoke()
SOONEST_END: Final = 1.0  # seconds that a revocation holds at least: it has to reach every worker


@api_operations.get("/connections")
@needs("admin")
def list_connections() -> Response:
    """The live connections of the cluster."""
    return _listed("connections", "sid")


@api_operations.get("/sessions")
@needs("admin")
def list_sessions() -> Response:
    """The live sessions of the cluster, with metadata and positions."""
    return _listed("sessions", "session")


def _listed(what: str, key: str) -> Response:
    asked = query(_WHO)
    found = the_server().api.calls.ask(what, asked)
    merged: list[dict[str, Any]] = [{**one, "worker": boot} for boot, told in found.by_boot.items() for one in told]
    merged.sort(key=lambda one: str(one[key]))
    page = merged[:asked["limit"]]
    more = len(merged) > len(page) or any(len(told) >= asked["limit"] for told in found.values)
    return answer({what: page, "next": page[-1][key] if more else None, "missing": found.missing})


@api_operations.post("/disconnect")
@needs("admin")
def disconnect() -> Response:
    """Throw out a user, a session or a connection, wherever it is: close code 4502, and nothing to resume."""
    asked = checked(_DISCONNECT, read_body(), "disconnect")
    found = the_server().api.calls.ask("disconnect", {
        "user": asked.get("userId"), "session": asked.get("session"), "sid": asked.get("sid"),
        "reason": asked["reason"]})
    return answer({"disconnected": sum(found.values), "missing": found.missing})


@api_operations.post("/revoke")
@needs("admin")
def revoke() -> Response:
    """Refuse a token id, a user or a session from now on, and close what is connected with it: close code 4501."""
    asked = checked(_REVOKE, read_body(), "revoke")
    server, now = the_server(), time.time()
    until = asked["until"] / 1000 if "until" in asked else now + asked.get("ttl", server.settings.revocation_ttl)
    until = max(until, now + SOONEST_END)
    missing = _revoke(server.hub.admission, asked, until)
    return answer({"until": round(until * 1000), "missing": missing})


def _revoke(admission: Any, asked: dict[str, Any], until: float) -> list[str]:
    """Revoke what is named; the workers that could not be asked about a session's public name."""
    by = f"key {g.wsapp_api_key.name!r}"
    admission.revoke(jti=asked.get("jti"), user=asked.get("userId"), session=asked.get("session"), until=until, by=by)
    if "session" not in asked:
        return []
    found = the_server().api.calls.ask("entries", {"session": asked["session"]})
    for entry in {entry for entries in found.values for entry in entries}:
        admission.revoke_entry(entry, until)
    missing: list[str] = found.missing
    return missing


@api_operations.get("/stats")
@needs("read", "admin")
def stats() -> Response:
    """The counters of this worker and of the cluster."""
    server = the_server()
    facts = server.get_metrics()
    return answer({"mode": server.mode, "worker": facts["worker"], "cluster": facts["cluster"]})
