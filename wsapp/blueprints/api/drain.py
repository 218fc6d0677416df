"""Taking workers out of service and back over the server API: what `wsapp drain` does, for those who have no Redis."""

from __future__ import annotations

from typing import Any, Final

from flask import Response
from marshmallow import ValidationError, fields, validate, validates_schema

from wsapp.blueprints.api.access import Problem, answer, the_server
from wsapp.blueprints.api.endpoints import ApiBlueprint
from wsapp.core.questions import Answers
from wsapp.errors import ErrorCode
from wsapp.runtime.drain import VERB, Service
from wsapp.schemas import Flag, Number, Strict, Text

api_drain = ApiBlueprint("drain", __name__)

LONGEST: Final = 3600


class DrainBody(Strict):
    """Which workers: by default those of the server that answers; and in which way."""

    workers = fields.List(Text(validate=validate.Length(1, 100)), validate=validate.Length(1, 1000),
                          metadata={"description": "only these"})
    everywhere = Flag(metadata={"description": "every worker of the cluster"})
    undo = Flag(metadata={"description": "take clients again"})
    over = Number(0, LONGEST, metadata={"description": "seconds over which the goodbyes are spread"})

    @validates_schema
    def _one(self, data: dict[str, Any], **_: Any) -> None:
        if data.get("everywhere") and "workers" in data:
            raise ValidationError("give workers or everywhere", "workers")


class WorkerServiceAnswer(Strict):
    """How a worker stands."""

    worker = fields.String(required=True)
    server = fields.String(required=True, metadata={"description": "its machine and WEBSOCKET_PORT"})
    pid = fields.Integer(required=True)
    state = fields.String(required=True, validate=validate.OneOf([str(one) for one in Service]))
    clients = fields.Integer(required=True, metadata={"description": "connected now"})
    told = fields.Integer(required=True, metadata={"description": "how many there were when it began to drain"})
    took = fields.Float(required=True, metadata={"description": "seconds since then, or until the last one left"})


class WorkersServiceAnswer(Strict):
    """How workers stand."""

    workers = fields.List(fields.Nested(WorkerServiceAnswer), required=True)
    missing = fields.List(fields.String(), required=True, metadata={"description": "did not answer"})


@api_drain.serve("GET", "/drain", WorkersServiceAnswer, scopes=("drain", "admin"))
def read_drain() -> Response:
    """How every worker of the cluster stands."""
    return answer(_content(_ask({"do": "tell"}, None)))


@api_drain.serve("POST", "/drain", WorkersServiceAnswer, scopes=("drain",), body=DrainBody(), what="drain",
                 status=202)
def drain(body: dict[str, Any]) -> Response:
    """Begin to drain workers, or take them back into service; GET tells how far it is."""
    standing = _ask({"do": "tell"}, None)
    own = standing.by_boot[the_server().token]["server"]
    chosen = body.get("workers") or [boot for boot, state in standing.by_boot.items()
                                      if body.get("everywhere") or state["server"] == own]
    unknown = sorted(set(chosen) - set(standing.by_boot))
    if unknown:
        raise Problem(404, ErrorCode.NOT_FOUND, f"no worker {unknown[0]} answers; those that do: "
                                                f"{', '.join(sorted(standing.by_boot))}")
    return answer(_content(_ask({"do": "undo" if body.get("undo") else "begin", "over": body.get("over")}, chosen)),
                  202)


def _ask(question: dict[str, Any], boots: list[str] | None) -> Answers:
    found: Answers = the_server().api.calls.ask(VERB, question, boots=boots)
    return found


def _content(found: Answers) -> dict[str, object]:
    return {"workers": [{"worker": boot, **state} for boot, state in sorted(found.by_boot.items())],
            "missing": found.missing}
