"""What travels: drafts before the broker numbers them, publications afterwards, and their two encodings.

The *record* is what the broker stores and fans out: one header line of tab-separated fields, a newline, and the
event's data as JSON.  A worker splits the header and concatenates; it never parses the JSON to deliver it.

    id \t ts \t priority \t flags \t lane \t entity \t event (\t room \t seq \t epoch)+ \n data

The *text* is the Socket.IO packet (protocol v5, section "Packet encoding") inside an Engine.IO message ("4"):
`42["event",data]`, with what the client's profile adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple

from wsapp.core.depth import TOO_DEEP
from wsapp.core.ids import new_id
from wsapp.errors import PayloadError

MIN_PRIORITY: Final = 0
MAX_PRIORITY: Final = 10
DEFAULT_PRIORITY: Final = 5
CRITICAL_PRIORITY: Final = 9  # from here on an event bypasses the throttle

KINDS: Final = ("agent", "task", "project")  # of rooms
THOUGHT: Final = "agent-thought"
TASK_UPDATE: Final = "task-update"

# Names that the protocol or wsapp itself gives a meaning to; nobody may publish under them.
RESERVED_EVENTS: Final = frozenset({
    "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener",
    "session", "shed", "resync", "mode", "server-shutdown", "batch", "beacon",
    "token-expiring", "unsubscribed", "session-closed", "presence", "ack-wanted",
})


class Profile(IntEnum):
    """How a client wants its events, chosen at CONNECT."""

    PLAIN = 0
    SDK = 1


class Lane(StrEnum):
    """What may happen to an event that has to wait: `state` keeps the latest of its entity, `append` joins the
    deltas of its entity, `log` keeps every one in order, `critical` does not wait."""

    CRITICAL = "c"
    STATE = "s"
    APPEND = "a"
    LOG = "l"


class Placed(NamedTuple):
    """Where a publication stands in one room."""

    room: str
    seq: int
    epoch: str


class Position(NamedTuple):
    """A place in a room's history: everything up to and including `seq` of `epoch` is behind it."""

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked event that is not yet published.  `body` is its data as JSON; `rooms[0]` is its home.  `id` is made
    with the draft and is the event's id everywhere.  `retry`: an attempt to publish it was made before and its answer
    did not come, so the broker looks whether it is recorded already."""

    event: str
    rooms: tuple[str, ...]
    body: bytes
    ts: int
    priority: int = DEFAULT_PRIORITY
    lane: Lane = Lane.LOG
    entity: str = ""
    flags: str = ""
    key: str = ""
    id: str = field(default_factory=new_id)
    retry: bool = False

    def head(self) -> str:
        """The middle of the record's header, between `id` and the rooms, which the broker adds."""
        flags = self.flags or "-"
        return f"{self.ts}\t{self.priority}\t{flags}\t{self.lane.value}\t{self.entity}\t{self.event}"


# json.dumps would make an encoder per call for anything but its defaults.
_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def strict_dumps(value: object) -> str:
    """Compact JSON of RFC 8259: NaN and infinities are refused, which browsers' JSON.parse would throw on."""
    try:
        return _encode(value)
    except RecursionError:
        raise PayloadError(f"data {TOO_DEEP}", {"data": [TOO_DEEP]}) from None
    except (TypeError, ValueError) as error:
        raise PayloadError(f"data cannot be written as JSON: {error}", {"data": [str(error)]}) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class JsonText(bytes):
    """JSON that is written already; `dumps_spliced` takes it as it is."""


def dumps_spliced(value: Mapping[str, object]) -> bytes:
    """As `strict_dumps`, of an object whose values may be JsonText, and in bytes.  Raises PayloadError."""
    parts = [strict_dumps(name).encode() + b":" + (
        given if isinstance(given, JsonText) else strict_dumps(given).encode()) for name, given in value.items()]
    return b"{" + b",".join(parts) + b"}"


def strict_loads(text: str | bytes) -> Any:
    """Parse JSON of RFC 8259, refusing `NaN` and `Infinity`.  Raises ValueError, also when it is nested deeper than the
    parser's stack."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def body_flags(data: object) -> str:
    """Which of `id` (i) and `seq` (s) may be added to the data on delivery: only to objects, never over a key
    that the publisher set."""
    if not isinstance(data, dict):
        return ""
    return ("" if "id" in data else "i") + ("" if "seq" in data else "s")


class Publication:
    """A recorded event as a worker holds it.  `texts` caches the encodings that its clients share."""

    __slots__ = ("body", "entity", "event", "flags", "id", "lane", "places", "priority", "texts", "ts")

    def __init__(self, id: str, ts: int, priority: int, flags: str, lane: Lane, entity: str, event: str,
                 places: tuple[Placed, ...], body: bytes) -> None:
        self.id, self.ts, self.priority, self.flags, self.lane = id, ts, priority, flags, lane
        self.entity, self.event, self.places, self.body = entity, event, places, body
        self.texts: dict[tuple[Profile, str], Any] = {}

    def __repr__(self) -> str:
        return f"<Publication {self.id} {self.event} {self.places}>"

    @property
    def critical(self) -> bool:
        """Whether it must be acknowledged (G6)."""
        return "c" in self.flags

    def seq(self, room: str) -> int:
        """Its number in the room.  Raises KeyError when it was not published there."""
        for place in self.places:
            if place.room == room:
                return place.seq
        raise KeyError(room)

    def data_json(self, room: str) -> bytes:
        """The data as a client that gets it through `room` sees it: with `id` and `seq` where they fit."""
        added = []
        if "i" in self.flags:
            added.append(f'"id":"{self.id}"')
        if "s" in self.flags:
            added.append(f'"seq":{self.seq(room)}')
        if not added:
            return self.body
        comma = b"" if self.body == b"{}" else b","
        return self.body[:-1] + comma + ",".join(added).encode() + b"}"

    def meta_json(self) -> bytes:
        """The second argument of the sdk profile: `{id, ts, epoch, rooms: {room: seq}, epochs?}`."""
        meta: dict[str, object] = {"id": self.id, "ts": self.ts, "epoch": self.places[0].epoch,
                                   "rooms": {place.room: place.seq for place in self.places if place.seq}}
        if self.critical:
            meta["critical"] = True
        if any(place.epoch != self.places[0].epoch for place in self.places):
            meta["epochs"] = {place.room: place.epoch for place in self.places}
        return strict_dumps(meta).encode()

    def text(self, profile: Profile, room: str) -> bytes:
        """The Engine.IO message for one profile: what is framed once and shared by all of that profile."""
        head = b"42[" + strict_dumps(self.event).encode() + b"," + self.data_json(room)
        if profile is Profile.PLAIN:
            return head + b"]"
        return head + b"," + self.meta_json() + b"]"

    def record(self) -> bytes:
        """The inverse of `parse_record`."""
        places = "".join(f"\t{p.room}\t{p.seq}\t{p.epoch}" for p in self.places)
        head = f"{self.id}\t{self.ts}\t{self.priority}\t{self.flags or '-'}\t{self.lane.value}\t{self.entity}"
        return f"{head}\t{self.event}{places}\n".encode() + self.body


def publish_draft(draft: Draft, places: tuple[Placed, ...]) -> Publication:
    """The publication a draft becomes once the broker has numbered it."""
    return Publication(draft.id, draft.ts, draft.priority, draft.flags, draft.lane, draft.entity, draft.event,
                       places, draft.body)


_LANES: Final = {lane.value: lane for lane in Lane}


def parse_record(record: bytes) -> Publication:
    """Read a record.  Raises ValueError on anything that `Publication.record` would not write."""
    head, newline, body = record.partition(b"\n")
    if not newline:
        raise ValueError("a record without a header")
    fields = head.decode().split("\t")
    count = len(fields)
    if count < 10 or (count - 7) % 3 or fields[4] not in _LANES:
        raise ValueError(f"a record of {count} fields")
    id, ts, priority, flags, lane, entity, event, room, seq, epoch, *others = fields
    places: tuple[Placed, ...] = (Placed(room, int(seq), epoch),)
    if others:
        places += tuple(Placed(others[i], int(others[i + 1]), others[i + 2]) for i in range(0, len(others), 3))
    if "~" in flags:  # before publishers made the ids an origin stood behind a tilde
        flags = flags.partition("~")[0]
    return Publication(id, int(ts), int(priority), "" if flags == "-" else flags, _LANES[lane], entity, event, places,
                       body)


def packet(event: str, *args: object) -> bytes:
    """The Engine.IO message of an event that is not recorded: `session`, `shed`, `server-shutdown`, ..."""
    return b"42" + strict_dumps([event, *args]).encode()
