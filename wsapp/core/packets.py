"""Socket.IO packets as clients send them, read strictly (Socket.IO protocol v5, "Packet encoding").

    <type>[<attachments>-][<namespace>,][<ack id>][<JSON>]

What the reference server refuses is refused: wrong payload types, reserved event names, malformed ids, JSON that is
not of RFC 8259, placeholders that point nowhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from wsapp.core.depth import MAX_DEPTH, too_deep
from wsapp.core.events import strict_loads

MAX_ATTACHMENTS: Final = 16

# Names that the reference implementation keeps for itself (socket.io-parser, RESERVED_EVENTS).
RESERVED_NAMES: Final = frozenset({"connect", "connect_error", "disconnect", "disconnecting", "newListener",
                                   "removeListener"})

_HEAD: Final = re.compile(r"([0-6])(?:(\d{1,6})-)?(?:(/[^,]{0,255}),)?(\d{0,16})", re.ASCII)


class BadPacket(ValueError):
    """Not a packet that a client may send: the connection is to be closed."""


class ReservedName(BadPacket):
    """An event under a name that the protocol keeps for itself; `ack_id` may be told so."""

    def __init__(self, name: str, ack_id: int | None) -> None:
        super().__init__(f"{name} is a reserved event name")
        self.ack_id = ack_id


class Kind(IntEnum):
    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


@dataclass(slots=True)
class Packet:
    """One packet.  `missing` counts the binary attachments that are still to come."""

    kind: Kind
    namespace: str
    id: int | None
    data: Any
    missing: int = 0
    size: int = 0  # bytes or characters that it came in, attachments included
    attachments: list[bytes] = field(default_factory=list)

    def attach(self, payload: bytes) -> bool:
        """Take the next attachment; True when the packet is complete, its placeholders filled in."""
        self.attachments.append(payload)
        self.size += len(payload)
        if len(self.attachments) < self.missing:
            return False
        self.data = _filled(self.data, self.attachments)
        return True


def decode(text: str) -> Packet:
    """Read one packet.  Raises BadPacket."""
    head = _HEAD.match(text)
    if head is None:
        raise BadPacket("unknown packet type")
    kind = Kind(int(head.group(1)))
    binary = kind in (Kind.BINARY_EVENT, Kind.BINARY_ACK)
    if binary != (head.group(2) is not None):
        raise BadPacket("attachments belong to binary packets, and only to them")
    namespace = (head.group(3) or "/").partition("?")[0]
    rest = text[head.end():]
    if rest.startswith("/") and "," not in rest and head.group(3) is None and not head.group(4):
        namespace, rest = rest.partition("?")[0], ""
    ack_id = int(head.group(4)) if head.group(4) else None
    packet = Packet(kind, namespace, ack_id, _json(rest), int(head.group(2) or 0), len(text))
    _judge(packet, bool(rest))
    return packet


def _json(text: str) -> Any:
    if not text:
        return None
    if too_deep(text):
        raise BadPacket(f"the payload is nested deeper than {MAX_DEPTH}")
    try:
        return strict_loads(text)
    except ValueError as error:
        raise BadPacket("the payload is not JSON") from error


def _judge(packet: Packet, has_data: bool) -> None:
    kind, data = packet.kind, packet.data
    if packet.missing > MAX_ATTACHMENTS:
        raise BadPacket(f"a packet may have {MAX_ATTACHMENTS} attachments")
    if kind is Kind.CONNECT:
        if (has_data and not isinstance(data, dict)) or packet.id is not None:
            raise BadPacket("CONNECT takes an object")
    elif kind is Kind.DISCONNECT:
        if has_data:
            raise BadPacket("DISCONNECT takes nothing")
    elif kind is Kind.CONNECT_ERROR:
        raise BadPacket("CONNECT_ERROR is the server's to send")
    elif kind in (Kind.ACK, Kind.BINARY_ACK):
        if not isinstance(data, list) or packet.id is None:
            raise BadPacket("an ACK has an id and a list")
    else:
        _judge_event(packet)


def _judge_event(packet: Packet) -> None:
    data = packet.data
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise BadPacket("an event is a list that begins with its name")
    if data[0] in RESERVED_NAMES:
        raise ReservedName(data[0], packet.id)


def _filled(data: Any, attachments: list[bytes]) -> Any:
    """`data` with each `{_placeholder: true, num}` replaced.  Iterative: the depth is the client's choice."""
    holder = [data]
    waiting: list[Any] = [holder]
    while waiting:
        box = waiting.pop()
        for key in (range(len(box)) if isinstance(box, list) else list(box)):
            value = box[key]
            if isinstance(value, dict) and value.get("_placeholder") is True:
                box[key] = _attachment(value, attachments)
            elif isinstance(value, (list, dict)):
                waiting.append(value)
    return holder[0]


def _attachment(placeholder: dict[str, Any], attachments: list[bytes]) -> bytes:
    number = placeholder.get("num")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(attachments):
        raise BadPacket("a placeholder names no attachment")
    return attachments[number]
