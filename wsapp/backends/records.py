"""What both twins require of a draft, and how they write and read what they store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wsapp.core.events import Draft, Placed
from wsapp.core.ids import CLOCK_DIGITS
from wsapp.core.ports import Receipt

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def check_draft(draft: Draft, head: str) -> None:
    """Refuse what would break the record's header.  Raises ValueError."""
    if not draft.rooms:
        raise ValueError(f"{draft.event!r} is published to no room")
    if head.count("\t") != 5 or "\n" in head:
        raise ValueError(f"a tab or newline in the event's name or entity: {head!r}")
    if len(draft.id) < CLOCK_DIGITS or not draft.id.isalnum():
        raise ValueError(f"not an id of a draft: {draft.id!r}")
    for room in draft.rooms:
        if not room or "\t" in room or "\n" in room:
            raise ValueError(f"not a room name: {room!r}")


def read_receipt(placed: str, duplicate: bool) -> Receipt:
    """A receipt from `id \\t (room \\t seq \\t epoch)+`."""
    number, *fields = placed.split("\t")
    places = tuple(Placed(fields[i], int(fields[i + 1]), fields[i + 2]) for i in range(0, len(fields), 3))
    return Receipt(number, places, duplicate=duplicate)


def split_owner(owner: str) -> tuple[str, str]:
    """Boot id and sid of an owner.  Raises ValueError when it is not `<boot>:<sid>`."""
    boot, separator, sid = owner.partition(":")
    if not (boot and separator and sid):
        raise ValueError(f"an owner is <worker boot id>:<sid>, not {owner!r}")
    return boot, sid


def base36(number: int) -> str:
    """The number in digits and small letters."""
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits)) or "0"


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, at least one, as Redis takes times to live."""
    return max(1, round(seconds * 1000))


def revoked_message(entry: str, at: float, until: float) -> bytes:
    """What workers are told on their control channels: `revoked <entry> <at> <until>`, seconds since the epoch."""
    return f"revoked {entry} {at!r} {until!r}".encode()


def unique(rooms: Sequence[str]) -> list[str]:
    """The rooms once each, in order."""
    return list(dict.fromkeys(rooms))
