"""What may come in: thoughts, task updates and project events from publishers, requests from clients.

marshmallow judges every payload at the boundary; an error names the field and the range.  Keys that a schema does
not name are kept as they are (they are the user's own), within the size limit of the whole event.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, NamedTuple

from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, post_load

from wsapp.core.depth import TOO_DEEP, too_deep
from wsapp.core.events import (
    CRITICAL_PRIORITY,
    DEFAULT_PRIORITY,
    KINDS,
    MAX_PRIORITY,
    MIN_PRIORITY,
    RESERVED_EVENTS,
    TASK_UPDATE,
    THOUGHT,
    Draft,
    Lane,
    Position,
    body_flags,
    strict_dumps,
)
from wsapp.errors import PayloadError

MAX_ID: Final = 200  # characters of an id, an event name, a key
MAX_ALSO_TO: Final = 15  # rooms besides an event's own
MAX_MS: Final = 2**53 - 1  # the largest integer that JavaScript has
RESERVED_PROJECT_EVENTS: Final = RESERVED_EVENTS | {THOUGHT, TASK_UPDATE}  # no project event may be named so
STATUSES: Final = ("pending", "in_progress", "completed", "failed")
DEFAULT_MAX_EVENT: Final = 256_000

# Header fields are separated by tabs and ended by a newline; lone surrogates have no UTF-8.
NAME_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
ROOM_ID_PATTERN: Final = NAME_PATTERN.replace("[^", "[^*")
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SNAKE: Final = {"agent_id": "agentId", "task_id": "taskId", "project_id": "projectId", "thought_id": "thoughtId"}


def _name_problem(value: object, limit: int = MAX_ID) -> str | None:
    if not isinstance(value, str):
        return "must be a string"
    if not value or value.isspace():
        return "must not be empty"
    if len(value) > limit:
        return f"must have at most {limit} characters, has {len(value)}"
    if _FORBIDDEN.search(value):
        return "must not contain control characters"
    return None


def _room_id_problem(value: object) -> str | None:
    """`*` stands for any id where rights are granted, so it stands for itself nowhere: rights could not name such an
    id, and a subscription to `agent:*` would wait for a room that does not exist."""
    problem = _name_problem(value)
    if problem is None and "*" in str(value):
        return "must not contain '*', which only grants of rights take: name each room"
    return problem


def check_id(value: object, field: str = "id") -> str:
    """An id as it is used: a string of 1 to 200 characters without control characters; integers are written out.
    Raises PayloadError."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    problem = _name_problem(value)
    if problem or not isinstance(value, str):
        raise PayloadError(f"{field} {problem}", {field: [problem]})
    return value


def room_name(kind: str, id: object) -> str:
    """`agent:coder` of `agent` and `coder`.  Raises PayloadError on an unknown kind or a bad id."""
    if kind not in KINDS:
        raise PayloadError(f"{kind!r} is no kind of room: {', '.join(KINDS)}", {"kind": [f"one of {KINDS}"]})
    return f"{kind}:{_room_id(id, 'id')}"


def parse_room(name: object) -> tuple[str, str]:
    """The kind and the id of a room's name; an id may itself contain colons.  Raises PayloadError."""
    kind, colon, id = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or kind not in KINDS:
        problem = f"{name!r} is no room: agent:<id>, task:<id> or project:<id>"
        raise PayloadError(problem, {"room": [problem]})
    return kind, _room_id(id, "room")


def _room_id(value: object, field: str) -> str:
    id = check_id(value, field)
    problem = _room_id_problem(id)
    if problem:
        raise PayloadError(f"{field} {problem}", {field: [problem]})
    return id


class Name(fields.Field[str]):
    """A name (`check_id`)."""

    pattern = NAME_PATTERN
    problem: Callable[[object], str | None] = staticmethod(_name_problem)

    def json_schema(self) -> dict[str, Any]:
        """What it takes, in the words of JSON Schema."""
        return {"type": ["string", "integer"], "minLength": 1, "maxLength": MAX_ID, "pattern": self.pattern}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        problem = self.problem(value)
        if problem:
            raise ValidationError(problem)
        return str(value)


class RoomId(Name):
    """The id in the name of a room: no `*` in it."""

    pattern = ROOM_ID_PATTERN
    problem = staticmethod(_room_id_problem)


class Text(fields.Field[str]):
    """A string, which may be empty and of several lines."""

    def json_schema(self) -> dict[str, Any]:
        """What it takes, in the words of JSON Schema."""
        return {"type": "string"}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be a string")
        return value


class Number(fields.Field[Any]):
    """A finite number in a range, kept as int or float; `whole` makes it an int."""

    def __init__(self, low: float, high: float, *, whole: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self.low, self.high, self.whole = low, high, whole

    def json_schema(self) -> dict[str, Any]:
        """What it takes, in the words of JSON Schema."""
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValidationError("must be a number")
        if not self.low <= value <= self.high:
            raise ValidationError(f"must be {self.low:.16g} to {self.high:.16g}")
        return int(value) if self.whole else value


class Percent(Number):
    """0 to 100.  A fraction of 1 is refused: it is somebody's other way to write a progress."""

    def __init__(self, **more: Any) -> None:
        super().__init__(0, 100, **more)

    def json_schema(self) -> dict[str, Any]:
        """What it takes, in the words of JSON Schema."""
        return {**super().json_schema(), "not": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> int | float:
        percent: int | float = super()._deserialize(value, attr, data, **more)
        if 0 < percent < 1:
            raise ValidationError(f"is in percent, 0 to 100, and {percent:g} looks like a fraction of 1: give"
                                  f" {percent * 100:g}, or 0 or 1")
        return percent


class Choice(fields.Field[str]):
    """One of a few strings."""

    def __init__(self, choices: Iterable[str], **more: Any) -> None:
        super().__init__(**more)
        self.choices = tuple(choices)

    def json_schema(self) -> dict[str, Any]:
        """What it takes, in the words of JSON Schema."""
        return {"type": "string", "enum": list(self.choices)}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> str:
        if value not in self.choices:
            raise ValidationError(f"must be one of {', '.join(self.choices)}")
        return str(value)


class Flag(fields.Field[bool]):
    """True or false, and nothing that looks like it."""

    def json_schema(self) -> dict[str, Any]:
        """What it takes, in the words of JSON Schema."""
        return {"type": "boolean"}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class AnyJson(fields.Raw):
    """Any JSON at all."""

    def json_schema(self) -> dict[str, Any]:
        """Everything fits."""
        return {}


class Strict(Schema):
    """Unknown fields are refused."""

    class Meta:
        unknown = RAISE


class AgentThoughtSchema(Schema):
    """One thought of one agent.  With `delta` it continues the text of `thoughtId`, perhaps by nothing; else its text
    must not be empty."""

    class Meta:
        unknown = INCLUDE

    # What no field can say alone: only a delta may be empty, and it names the thought that it continues.
    described: ClassVar[dict[str, Any]] = {"anyOf": [
        {"properties": {"delta": {"const": False}, "thought": {"minLength": 1}}},
        {"required": ["delta", "thoughtId"],
         "properties": {"delta": {"const": True}, "thoughtId": {"type": ["string", "integer"]}}}]}

    agentId = RoomId(required=True)
    thought = Text(required=True)
    timestamp = Number(0, MAX_MS, whole=True)
    taskId = Name(allow_none=True)
    projectId = Name(allow_none=True)
    thoughtId = Name(allow_none=True)
    delta = Flag()


class TaskUpdateSchema(Schema):
    """The state of one task; `progress` in percent."""

    class Meta:
        unknown = INCLUDE

    taskId = RoomId(required=True)
    status = Choice(STATUSES, required=True)
    progress = Percent(allow_none=True)
    message = Text(allow_none=True)
    timestamp = Number(0, MAX_MS, whole=True)
    agentId = Name(allow_none=True)
    projectId = Name(allow_none=True)


_THOUGHT: Final = AgentThoughtSchema()
_TASK: Final = TaskUpdateSchema()


def _messages(error: ValidationError) -> dict[str, object]:
    told = error.messages
    return {str(name): why for name, why in told.items()} if isinstance(told, dict) else {"payload": told}


def load(schema: Schema, payload: object, what: str) -> Any:
    """What the schema makes of a payload; `what` names it in errors.  Raises PayloadError with the fields by name."""
    try:
        return schema.load(payload)  # type: ignore[arg-type]  # what is no mapping is an error of its own
    except ValidationError as error:
        found = _messages(error)
        first = "; ".join(f"{name} {why[0] if isinstance(why, list) else why}" for name, why in found.items())
        raise PayloadError(f"{what}: {first}", found) from None


def mapping(payload: object, what: str) -> Mapping[str, Any]:
    """The payload, if it is an object.  Raises PayloadError."""
    if not isinstance(payload, Mapping):
        problem = f"{what} must be an object (a dict), not {type(payload).__name__}"
        raise PayloadError(problem, {"payload": [problem]})
    return payload


def _camel(payload: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Python callers may write `agent_id`; the wire has `agentId`."""
    if _SNAKE.keys().isdisjoint(payload):
        return payload
    renamed: dict[str, Any] = {}
    for name, value in payload.items():
        wire = _SNAKE.get(name, name)
        if wire in renamed:
            raise PayloadError(f"{what}: {wire} is given twice", {wire: ["is given twice"]})
        renamed[wire] = value
    return renamed


class _Options(NamedTuple):
    """The keyword arguments of every broadcast, checked."""

    priority: int
    also_to: tuple[str, ...]
    key: str
    critical: bool


def _rooms(also_to: object) -> tuple[str, ...]:
    if isinstance(also_to, str):
        also_to = (also_to,)
    if not isinstance(also_to, Iterable):
        raise PayloadError("also_to must be a list of rooms", {"also_to": ["must be a list of rooms"]})
    rooms = tuple(dict.fromkeys(also_to))
    if len(rooms) > MAX_ALSO_TO:
        problem = f"must name at most {MAX_ALSO_TO} rooms, names {len(rooms)}"
        raise PayloadError(f"also_to {problem}", {"also_to": [problem]})
    for room in rooms:
        try:
            parse_room(room)
        except PayloadError as error:
            raise PayloadError(f"also_to: {error}", {"also_to": [str(error)]}) from None
    return rooms


def _options(priority: int = DEFAULT_PRIORITY, also_to: object = (), key: str = "", critical: bool = False) -> _Options:
    if isinstance(priority, bool) or not isinstance(priority, int) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        problem = f"must be a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}"
        raise PayloadError(f"priority {problem}", {"priority": [problem]})
    if not isinstance(critical, bool):
        raise PayloadError("critical must be true or false", {"critical": ["must be true or false"]})
    problem_of_key = _name_problem(key) if key else None
    if problem_of_key:
        raise PayloadError(f"key {problem_of_key}", {"key": [problem_of_key]})
    return _Options(priority, _rooms(also_to) if also_to else (), key or "", critical)


_PLAIN: Final = _options()


def _known_options(options: Mapping[str, Any]) -> _Options:
    if not options:
        return _PLAIN
    unknown = options.keys() - set(_Options._fields)
    if unknown:
        name = min(unknown)
        raise PayloadError(f"{name} is no option: {', '.join(_Options._fields)}", {name: ["is no option"]})
    return _options(**options)


def json_body(data: object, max_bytes: int) -> bytes:
    """Strict JSON within the limit.  Raises PayloadError."""
    if isinstance(data, dict) and not all(isinstance(name, str) for name in data):
        raise PayloadError("data has a key that is not a string", {"data": ["keys must be strings"]})
    try:
        text = strict_dumps(data)
        body = text.encode()
    except UnicodeEncodeError as error:
        raise PayloadError("data has a lone surrogate, which has no UTF-8", {"data": [str(error)]}) from None
    if len(body) > max_bytes:
        problem = f"must have at most {max_bytes} bytes as JSON, has {len(body)}"
        raise PayloadError(f"the event {problem}", {"data": [problem]})
    if too_deep(text):
        raise PayloadError(f"the event {TOO_DEEP}: many clients could not read it", {"data": [TOO_DEEP]})
    return body


def _draft(event: str, home: str, data: object, lane: Lane, entity: str, now_ms: int, max_bytes: int,
           options: _Options) -> Draft:
    rooms = (home, *(room for room in options.also_to if room != home)) if options.also_to else (home,)
    if options.critical or options.priority >= CRITICAL_PRIORITY:
        lane = Lane.CRITICAL
    flags = body_flags(data) + ("c" if options.critical else "")
    return Draft(event, rooms, json_body(data, max_bytes), now_ms, options.priority, lane, entity, flags, options.key)


def thought_draft(thought: Mapping[str, Any], *, now_ms: int, max_bytes: int = DEFAULT_MAX_EVENT,
                  **options: Any) -> Draft:
    """An `agent-thought` of `{agentId, thought, timestamp?, taskId?, projectId?, thoughtId?, delta?, ...}` for the
    room `agent:{agentId}` and those of `also_to`; task and project rooms are not implied by the ids.

    `timestamp` (ms) is filled in with `now_ms`, which is also the time of publication: a timestamp of the caller's
    is told to clients but neither ages nor measures anything.  Options: priority 0-10, also_to (at most 15 rooms),
    key (idempotency), critical.  Raises PayloadError.
    """
    data = load(_THOUGHT, _camel(mapping(thought, "a thought"), "a thought"), "a thought")
    data.setdefault("timestamp", now_ms)
    lane, entity = Lane.LOG, data["agentId"]
    if not data["thought"] and not data.get("delta"):
        raise PayloadError("a thought: thought must not be empty", {"thought": ["must not be empty"]})
    if data.get("delta"):
        if not data.get("thoughtId"):
            raise PayloadError("a thought: thoughtId is missing beside delta", {"thoughtId": ["needed with delta"]})
        lane, entity = Lane.APPEND, data["thoughtId"]
    return _draft(THOUGHT, f"agent:{data['agentId']}", data, lane, entity, now_ms, max_bytes,
                  _known_options(options))


def task_draft(update: Mapping[str, Any], *, now_ms: int, max_bytes: int = DEFAULT_MAX_EVENT,
               **options: Any) -> Draft:
    """A `task-update` of `{taskId, status, progress? 0-100, message?, timestamp?, agentId?, projectId?, ...}` for
    the room `task:{taskId}` and those of `also_to`.  Timestamp, options and errors as in `thought_draft`."""
    data = load(_TASK, _camel(mapping(update, "a task update"), "a task update"), "a task update")
    data.setdefault("timestamp", now_ms)
    return _draft(TASK_UPDATE, f"task:{data['taskId']}", data, Lane.STATE, data["taskId"], now_ms, max_bytes,
                  _known_options(options))


def check_event(event: object) -> str:
    """A name that a project event may have: not one of the protocol's or wsapp's own.  Raises PayloadError."""
    problem = _name_problem(event)
    if problem is None and event in RESERVED_EVENTS:
        problem = "is reserved"
    if problem is None and event in (THOUGHT, TASK_UPDATE):
        problem = "has a method of its own, broadcast_" + ("agent_thought" if event == THOUGHT else "task_update")
    if problem or not isinstance(event, str):
        raise PayloadError(f"event {event!r} {problem}", {"event": [problem]})
    return event


def project_draft(project_id: object, event: str, data: object = None, *, now_ms: int,
                  max_bytes: int = DEFAULT_MAX_EVENT, **options: Any) -> Draft:
    """An event under its own name for the room `project:{project_id}` and those of `also_to`; `data` is any JSON.
    Options and errors as in `thought_draft`."""
    room = f"project:{_room_id(project_id, 'project_id')}"
    name = check_event(event)
    return _draft(name, room, data, Lane.LOG, name, now_ms, max_bytes, _known_options(options))


# ---- requests of clients


class RequestSchema(Strict):
    """What clients send with an event.  A payload that is no object stands for the field `bare`, where there is one."""

    bare: ClassVar[str] = ""

    def parse(self, payload: object, what: str) -> Any:
        """The request.  Raises PayloadError with the fields by name."""
        if self.bare and not isinstance(payload, Mapping):
            payload = {self.bare: payload}
        return load(self, mapping(payload, what), what)

    def make(self, given: dict[str, Any]) -> Any:
        """What the handler gets of the fields that were given; by default the fields themselves."""
        return given

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return self.make(data)


class PositionSchema(Strict):
    """A place in a room's history."""

    epoch = Name(required=True)
    seq = Number(0, MAX_MS, whole=True, required=True)


_POSITION: Final = PositionSchema()
_SEQ: Final = Number(0, MAX_MS, whole=True)


class Since(fields.Field[Position]):
    """Where a client stands: the last seq that it has, or `{epoch, seq}`.  A seq alone is one of the history that the
    room has now: its epoch is ""."""

    def json_schema(self) -> dict[str, Any]:
        """What it takes, in the words of JSON Schema."""
        seq = {"type": "integer", "minimum": 0, "maximum": MAX_MS}
        place = {"type": "object", "required": ["epoch", "seq"], "additionalProperties": False,
                 "properties": {"epoch": Name().json_schema(), "seq": seq}}
        return {"oneOf": [seq, place, {"type": "null"}]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Position:
        if isinstance(value, Mapping):
            return Position(**_POSITION.load(value))
        try:
            return Position("", int(_SEQ.deserialize(value)))
        except ValidationError:
            raise ValidationError("must be a seq or {epoch, seq}") from None


class RoomName(fields.Field[str]):
    """The whole name of a room (`parse_room`)."""

    def json_schema(self) -> dict[str, Any]:
        """What it takes, in the words of JSON Schema."""
        return {"type": "string", "pattern": f"^({'|'.join(KINDS)}):"}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> str:
        try:
            kind, id = parse_room(value)
        except PayloadError as error:
            raise ValidationError(str(error)) from None
        return f"{kind}:{id}"


def load_positions(value: object) -> dict[str, Position]:
    """`positions` of CONNECT, `{room: {epoch, seq}}`, checked; none for None.  Raises PayloadError."""
    found = {}
    for room, place in mapping({} if value is None else value, "positions").items():
        parse_room(room)
        found[room] = Position(**load(_POSITION, mapping(place, f"positions: {room}"), f"positions: {room}"))
    return found
