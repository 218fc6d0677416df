"""A call of the server API: what it takes, which keys it needs and what it answers, in one place: at its view.

    @api_rooms.serve("GET", "/rooms", RoomsAnswer, scopes=("read",), query=RoomsQuery())
    def list_rooms(query): ...

From this come the judgement of requests, the OpenAPI document (`openapi.py`) and the table of docs/http-api.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Final, Protocol

from flask import Blueprint, g
from marshmallow import Schema, ValidationError, fields, validate

from wsapp.blueprints.api.access import read_body, read_query, require
from wsapp.core.events import KINDS
from wsapp.schemas import Strict, load

_CONTROL: Final = r"\x00-\x1f\x7f-\x9f"
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
MAX_PAGE: Final = 1000
ROOM_PATTERN: Final = f"^({'|'.join(KINDS)}):[^*{_CONTROL}]{{0,99}}[^*\\s{_CONTROL}][^*{_CONTROL}]{{0,100}}$"

View = Callable[..., Any]
Json = dict[str, Any]


class Whole(fields.Field[int]):
    """A whole number in a range; as decimal digits when `written`, as in a query."""

    def __init__(self, low: int, high: int, *, written: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self.low, self.high, self.written = low, high, written

    def json_schema(self) -> Json:
        """What it takes, in the words of JSON Schema."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> int:
        if self.written:
            value = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else None
        elif isinstance(value, float) and value.is_integer():
            value = int(value)  # 5.0 is an integer in JSON Schema
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValidationError(f"must be a whole number from {self.low} to {self.high}")
        return value


class PageQuery(Strict):
    """A page of a listing: what follows `after`."""

    after = fields.String(load_default="", validate=validate.Length(0, 500))
    limit = Whole(1, MAX_PAGE, written=True, load_default=100)


class WhoQuery(PageQuery):
    """Connections or sessions, of one user or in one room if wanted."""

    user = fields.String(validate=validate.Length(1, 500))
    room = fields.String(validate=validate.Regexp(ROOM_PATTERN))


class PageAnswer(Strict):
    """What every listing has."""

    next = fields.String(required=True, allow_none=True,
                         metadata={"description": "`after` of the next page, null at the end"})
    missing = fields.List(fields.String(), required=True, metadata={
        "description": "workers that did not answer: what they hold is not in here"})


def count(text: str) -> fields.Integer:
    """A number of things in an answer."""
    return fields.Integer(required=True, metadata={"description": text})


def one_of(*names: str) -> Json:
    """Exactly one of these fields, in the words of JSON Schema: for `described` of a schema, which says what no field
    can say alone."""
    return {"oneOf": [{"required": [name]} for name in names]}


class Body(Protocol):
    """What judges the body of a request where one schema cannot; `described` is given what names a schema."""

    def parse(self, payload: object, what: str) -> Any:
        """Raises PayloadError."""

    def described(self, named: Callable[[type[Schema]], Json]) -> Json:
        """In the words of JSON Schema."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call.  `scopes`: a key needs one of them; without any the call needs no key.  `answers`: what is answered
    beside `answer`, by status.  `parameters`: further ones, in the words of OpenAPI.
    `content`: the type of what is answered."""

    method: str
    path: str
    view: View
    answer: type[Schema] | None
    scopes: tuple[str, ...] = ()
    query: Schema | None = None
    body: Schema | Body | None = None
    status: int = 200
    answers: Mapping[int, type[Schema] | str] = field(default_factory=dict)
    parameters: Sequence[Json] = ()
    content: str = "application/json"

    @property
    def summary(self) -> str:
        """The first sentence of what the view says of itself."""
        return " ".join((self.view.__doc__ or "").split("\n\n")[0].split())

    @property
    def template(self) -> str:
        """The path with `{room}` instead of Flask's `<path:room>`."""
        return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", self.path)


class ApiBlueprint(Blueprint):
    """A part of the server API, and what it says of its calls."""

    def __init__(self, name: str, import_name: str) -> None:
        super().__init__(name, import_name)
        self.endpoints: list[Endpoint] = []

    def serve(self, method: str, path: str, answer: type[Schema] | None, *, scopes: tuple[str, ...] = (),
              query: Schema | None = None, body: Schema | Body | None = None, what: str = "the body",
              guard: Callable[[], object] | None = None, options: Mapping[str, Any] | None = None,
              **described: Any) -> Callable[[View], View]:
        """Register a view.  It gets the parts of the path, and as `query` and `body` what their schemas make of the
        request; the key is judged, or `guard` called, before anything of the request is read.  `what` names the body in
        errors; `options` are those of Flask's routes; the rest is as in `Endpoint`."""

        def register(view: View) -> View:
            @wraps(view)
            def judged(**parts: Any) -> Any:
                if scopes:
                    g.wsapp_api_key = require(*scopes)
                if guard is not None:
                    guard()
                if query is not None:
                    parts["query"] = read_query(query)
                if body is not None:
                    payload = read_body()
                    parts["body"] = load(body, payload, what) if isinstance(body, Schema) else body.parse(payload, what)
                return view(**parts)

            self.endpoints.append(Endpoint(method, path, view, answer, scopes, query, body, **described))
            self.route(path, methods=[method], **(options or {}))(judged)
            return view

        return register
