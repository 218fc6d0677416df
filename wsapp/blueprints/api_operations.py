"""Connections, sessions, throwing out, and counters: the operator's part of the server API.

To add an operation on all workers: a verb in `wsapp.runtime.operations`, a view here that merges the answers.
"""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response

from wsapp.blueprints.api_access import answer, checked, needs, query, read_body, the_server
from wsapp.blueprints.api_schemas import Disconnect, WhoQuery

api_operations = Blueprint("operations", __name__)

_WHO: Final = WhoQuery()
_DISCONNECT: Final = Disconnect()


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


@api_operations.get("/stats")
@needs("read", "admin")
def stats() -> Response:
    """The counters of this worker and of the cluster."""
    server = the_server()
    facts = server.get_metrics()
    return answer({"mode": server.mode, "worker": facts["worker"], "cluster": facts["cluster"]})
