"""Bodies, queries and answers of the server API.  What comes in is judged by these; what goes out is described by
them in the OpenAPI document, and held to it by tests."""

from __future__ import annotations

import re
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from wsapp.core.events import KINDS, MAX_PRIORITY, MIN_PRIORITY
from wsapp.core.ports import Fate
from wsapp.schemas import (
    MAX_ALSO_TO,
    MAX_MS,
    RESERVED_PROJECT_EVENTS,
    AgentThoughtSchema,
    AnyJson,
    Choice,
    Flag,
    Name,
    RoomId,
    Strict,
    TaskUpdateSchema,
    Text,
)

_CONTROL: Final = r"\x00-\x1f\x7f-\x9f"
MAX_PAGE: Final = 1000
MAX_BATCH: Final = 500
MAX_TTL: Final = 315_360_000  # seconds: ten years
MAX_WAIT: Final = 30  # seconds of a request that waits for acknowledgements
EVENT_ID: Final = "[0-9A-Za-z~._-]{1,64}"
BURIED_PATTERN: Final = f"^[0-9]{{1,15}}:{EVENT_ID}:[^{_CONTROL}]{{1,500}}$"
BATCH_KEY: Final = 190  # characters of an Idempotency-Key: that of an item of a batch adds its number
IDEMPOTENCY_KEY: Final = r'^([!#-~][!-~]{0,189}|"[!#-~]{1,188}")$'
FATES: Final = tuple(str(fate) for fate in Fate)
STATUSES: Final = ("accepted", "queued", "local_only")
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
ROOM_PATTERN: Final = f"^({'|'.join(KINDS)}):[^{_CONTROL}]{{0,99}}[^\\s{_CONTROL}][^{_CONTROL}]{{0,100}}$"


class Whole(fields.Field[int]):
    """A whole number in a range; as decimal digits when `written`, as in a query."""

    def __init__(self, low: int, high: int, *, written: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self.low, self.high, self.written = low, high, written

    def json_schema(self) -> dict[str, Any]:
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


def _text(text: str, **more: Any) -> fields.String:
    return fields.String(metadata={"description": text}, **more)


def _count(text: str) -> fields.Integer:
    return fields.Integer(required=True, metadata={"description": text})


# -- bodies


class PublishOptions(Strict):
    """What every broadcast takes beside its data."""

    priority = Whole(MIN_PRIORITY, MAX_PRIORITY, metadata={"description": "5; from 9 on past the throttle"})
    alsoTo = fields.List(fields.String(validate=validate.Regexp(ROOM_PATTERN)),
                         validate=validate.Length(max=MAX_ALSO_TO), metadata={"description": "more rooms that get it"})
    key = Name(metadata={"description": "idempotency key: published once however often it is sent"})
    critical = Flag(metadata={"description": "delivered until acknowledged"})


class PublishThought(PublishOptions):
    """A thought, to `agent:{agentId}`."""

    type = Choice(["agent-thought"], required=True)
    data = fields.Nested(AgentThoughtSchema, required=True)


class PublishTask(PublishOptions):
    """A task's state, to `task:{taskId}`."""

    type = Choice(["task-update"], required=True)
    data = fields.Nested(TaskUpdateSchema, required=True)


class PublishProject(PublishOptions):
    """An event under its own name, to `project:{projectId}`."""

    type = Choice(["project-event"], required=True)
    projectId = RoomId(required=True)
    event = Name(required=True, metadata={"not": {"enum": sorted(RESERVED_PROJECT_EVENTS)}})
    data = AnyJson(load_default=None, allow_none=True)


PUBLISH: Final[dict[object, Schema]] = {
    "agent-thought": PublishThought(), "task-update": PublishTask(), "project-event": PublishProject()}


class Disconnect(Strict):
    """Whom to throw out: all of a user, one session by its public name, or one connection."""

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


class DeadLetterChoice(Strict):
    """A dead letter: of one user, of everybody for whom the event died, or all there are."""

    id = Text(validate=validate.Length(1, 200))
    userId = Text(validate=validate.Length(1, 500))
    all = Flag()

    @validates_schema
    def _one(self, data: dict[str, Any], **_: Any) -> None:
        if ("all" in data) == ("id" in data) or data.get("all") is False:
            raise ValidationError("give an id, or all: true", "id")
        if "userId" in data and "id" not in data:
            raise ValidationError("needs an id beside it", "userId")


class Acknowledgement(Strict):
    """A critical event that a stream's user has got, or wants again.  `sessionId` is that of the stream's `session`
    event; it stands for the user where there are no tokens."""

    id = Text(required=True, validate=validate.Length(1, 200))
    sessionId = Text(validate=validate.Length(1, 200))


# -- queries


class DeadLettersQuery(Strict):
    """A page of the dead letters, oldest first: what follows `after`, which is the `next` of the page before."""

    after = fields.String(validate=validate.Regexp(BURIED_PATTERN))
    limit = Whole(1, 100, written=True, load_default=50)


class DeliveryQuery(Strict):
    """How long to wait for the acknowledgements, and of one user alone if wanted."""

    wait = Whole(0, MAX_WAIT, written=True, load_default=0, metadata={"description": "seconds"})
    user = fields.String(validate=validate.Length(1, 500))


class HistoryQuerySchema(Strict):
    """A page of a room: forwards after `since`, only up to `before` when that is given too; or backwards before
    `before`, from the newest without either."""

    since = Whole(0, MAX_MS, written=True)
    before = Whole(0, MAX_MS, written=True)
    limit = Whole(1, MAX_PAGE, written=True, load_default=100)
    epoch = Name()


class PageQuery(Strict):
    """A page of a listing: what follows `after`."""

    after = fields.String(load_default="", validate=validate.Length(0, 500))
    limit = Whole(1, MAX_PAGE, written=True, load_default=100)


class RoomsQuery(PageQuery):
    """Rooms, of one kind if wanted."""

    kind = Choice(KINDS)


class WhoQuery(PageQuery):
    """Connections or sessions, of one user or in one room if wanted."""

    user = fields.String(validate=validate.Length(1, 500))
    room = fields.String(validate=validate.Regexp(ROOM_PATTERN))


# -- answers


class PositionSchema(Strict):
    """A place in a room's history."""

    epoch = fields.String(required=True)
    seq = fields.Integer(required=True)


class ReceiptSchema(Strict):
    """What became of a publish: `accepted` by Redis, `queued` in this worker while Redis is away, or `local_only`."""

    id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    duplicate = fields.Boolean(required=True, metadata={"description": "the key had been published before"})
    positions = fields.Dict(fields.String(), fields.Nested(PositionSchema), required=True)


class ReceiptsSchema(Strict):
    """The receipts of a batch, in its order."""

    receipts = fields.List(fields.Nested(ReceiptSchema), required=True)


class EventSchema(Strict):
    """One recorded event."""

    event = fields.String(required=True)
    data = AnyJson(required=True, allow_none=True)
    id = fields.String(required=True)
    ts = _count("time of publication, ms")
    seq = _count("its number in the room")


class HistorySchema(Strict):
    """A page of a room's history; `next` is the path of the page after it."""

    room = fields.String(required=True)
    epoch = fields.String(required=True)
    seq = _count("the newest of the room")
    first = _count("the oldest that is kept")
    events = fields.List(fields.Nested(EventSchema), required=True)
    next = fields.String(required=True, allow_none=True)


class RoomSchema(Strict):
    """One room with somebody in it."""

    room = fields.String(required=True)
    connections = _count("in it, over the cluster")
    users = _count("per worker, added up: a user on two workers counts twice")


class _Page(Strict):
    next = _text("`after` of the next page, null at the end", required=True, allow_none=True)
    missing = fields.List(fields.String(), required=True, metadata={
        "description": "workers that did not answer: what they hold is not in here"})


class RoomsSchema(_Page):
    """Rooms, by name."""

    rooms = fields.List(fields.Nested(RoomSchema), required=True)


class MemberSchema(Strict):
    """A user in a room."""

    userId = fields.String(required=True)
    connections = _count("of this user in the room")


class PresenceSchema(Strict):
    """Who watches a room now; the first 1000 users, all of them counted."""

    room = fields.String(required=True)
    watched = fields.Boolean(required=True)
    users = _count("over the cluster")
    connections = _count("over the cluster")
    members = fields.List(fields.Nested(MemberSchema), required=True)
    missing = fields.List(fields.String(), required=True)


class ConnectionSchema(Strict):
    """One live connection.  `session` is the session's public name, not the secret that resumes it."""

    sid = fields.String(required=True)
    session = fields.String(required=True)
    userId = fields.String(required=True)
    worker = fields.String(required=True)
    profile = fields.String(required=True)
    rooms = fields.List(fields.String(), required=True)
    connectedFor = fields.Float(required=True, metadata={"description": "seconds"})
    silentFor = fields.Float(required=True, metadata={"description": "seconds"})
    received = _count("messages from the client")
    sent = _count("frames to the client")
    backlog = _count("bytes that wait for the client")


class ConnectionsSchema(_Page):
    """Connections, by sid."""

    connections = fields.List(fields.Nested(ConnectionSchema), required=True)


class SessionSchema(Strict):
    """One live session: its metadata and confirmed positions."""

    session = fields.String(required=True)
    sid = fields.String(required=True)
    userId = fields.String(required=True)
    worker = fields.String(required=True)
    metadata = fields.Dict(fields.String(), AnyJson(), required=True)
    positions = fields.Dict(fields.String(), fields.Nested(PositionSchema), required=True)


class SessionsSchema(_Page):
    """Sessions, by public name."""

    sessions = fields.List(fields.Nested(SessionSchema), required=True)


class DisconnectedSchema(Strict):
    """How many connections were closed."""

    disconnected = _count("connections")
    missing = fields.List(fields.String(), required=True)


class RevokedSchema(Strict):
    """Until when it is refused."""

    until = _count("ms since 1970")
    missing = fields.List(fields.String(), required=True, metadata={
        "description": "workers that could not be asked whether the session is theirs"})


class DeadLetterSchema(Strict):
    """A critical event that a user did not acknowledge."""

    id = fields.String(required=True)
    userId = fields.String(required=True)
    attempts = _count("how often it was sent")
    died = _count("ms since 1970")
    event = fields.String(required=True)
    data = AnyJson(required=True, allow_none=True)
    rooms = fields.List(fields.String(), required=True)


class DeadLettersSchema(Strict):
    """Dead letters, oldest first."""

    deadLetters = fields.List(fields.Nested(DeadLetterSchema), required=True)
    next = _text("`after` of the next page, null at the end", required=True, allow_none=True)


class RequeuedSchema(Strict):
    """How many dead letters are delivered again."""

    requeued = _count("dead letters")


class DiscardedSchema(Strict):
    """How many dead letters were forgotten."""

    discarded = _count("dead letters")


class UserDeliverySchema(Strict):
    """How a critical event stands for one user."""

    userId = fields.String(required=True)
    state = Choice(FATES, required=True)
    attempts = _count("how often it was sent")


class DeliverySchema(Strict):
    """How a critical event stands: `acked` when everybody has acknowledged it, `dead` when somebody's is a dead letter,
    `unknown` when it is kept for nobody: no such event, not critical, watched by nobody, or forgotten."""

    id = fields.String(required=True)
    state = Choice(("unknown", *FATES), required=True)
    users = fields.List(fields.Nested(UserDeliverySchema), required=True)


class AcknowledgedSchema(Strict):
    """The user has it."""

    id = fields.String(required=True)


class RefusedEventSchema(Strict):
    """The user gets it again; `dead` when it was sent often enough."""

    id = fields.String(required=True)
    state = Choice(("pending", "dead"), required=True)
    attempts = _count("how often it was sent")


class StatsSchema(Strict):
    """Counters of this worker and of the cluster (null while Redis is away)."""

    mode = fields.String(required=True)
    worker = fields.Dict(fields.String(), fields.Float(), required=True)
    cluster = fields.Dict(fields.String(), fields.Float(), required=True, allow_none=True)


class ProblemSchema(Schema):
    """An error (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    code = fields.String(required=True)
    detail = fields.String(required=True)
    retryable = fields.Boolean(required=True)
    fields_ = fields.Dict(fields.String(), AnyJson(), data_key="fields")
