"""The newest publications of one room, as a worker keeps them for the members that have not got them yet.

A subscription is a cursor in the log: everything up to its `sent` is dealt with.  The log holds a contiguous stretch
`first`..`head` of the room's numbers, at most `MAX_ITEMS` publications and `MAX_BYTES` bytes of data.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from wsapp.core.backlog import Backlog
from wsapp.core.events import Publication

MAX_ITEMS: Final = 2_000
MAX_BYTES: Final = 2_000_000
TRIMMED: Final = 64  # entries that go at a time
RECENT: Final = 1_000


class LogEntry(NamedTuple):
    """One publication of a log.  `had`: the sessions that have it already in another way than through this room."""

    publication: Publication
    seq: int
    at: float
    had: Collection[Any]


class RoomLog:
    """`head` is the newest number, 0 in a room that has none.  Some publications are special: each member needs a look
    whether it gets them, and when."""

    __slots__ = ("_bytes", "_entries", "_special", "_starts", "head")

    def __init__(self) -> None:
        self._entries: list[LogEntry] = []
        self._starts: dict[int, Backlog] = {}
        self._bytes = self.head = 0
        self._special: list[int] = []

    @property
    def first(self) -> int:
        """The oldest number that is kept; one past the head when none is."""
        return self.head + 1 - len(self._entries)

    def reset(self, seq: int) -> None:
        """The room stands at `seq`, and nothing is kept."""
        self._entries.clear()
        self._starts.clear()
        self._special.clear()
        self.head, self._bytes = seq, 0

    def append(self, publication: Publication, seq: int, at: float, had: Collection[Any] = (),
               special: bool = False) -> None:
        """The next publication.  Raises ValueError for one that does not follow the head."""
        if seq != self.head + 1:
            raise ValueError(f"{seq} does not follow {self.head}")
        if self._starts:
            self._starts.clear()
        entries = self._entries
        entries.append(LogEntry(publication, seq, at, had))
        self.head = seq
        self._bytes += len(publication.body)
        if special:
            self._special.append(seq)
        if len(entries) > MAX_ITEMS or self._bytes > MAX_BYTES:
            self._trim()

    def _trim(self) -> None:
        """Let the oldest go, some more than have to."""
        count = 0
        while count < len(self._entries) - 1 and (
                count < TRIMMED or len(self._entries) - count > MAX_ITEMS or self._bytes > MAX_BYTES):
            self._bytes -= len(self._entries[count].publication.body)
            count += 1
        del self._entries[:count]
        del self._special[:bisect_left(self._special, self.first)]

    def at(self, seq: int) -> LogEntry:
        """The entry of a number.  Raises IndexError when it is not kept."""
        back = self.head - seq
        if not 0 <= back < len(self._entries):
            raise IndexError(f"{seq} is not one of {self.first}..{self.head}")
        return self._entries[-1 - back]

    def after(self, seq: int, to: int) -> list[LogEntry]:
        """What is kept of seq+1..to."""
        first = self.first
        return self._entries[max(0, seq + 1 - first):max(0, to + 1 - first)]

    def holds(self, id: str) -> bool:
        """Whether an event is one of the newest `RECENT`: its record came a moment ago."""
        return any(entry.publication.id == id for entry in self._entries[-RECENT:])

    def covers(self, seq: int) -> bool:
        """Whether everything after `seq` is kept."""
        return self.first - 1 <= seq <= self.head

    def next_special(self, seq: int) -> int:
        """The first special number after `seq`, 0 when there is none."""
        special = self._special
        if not special or special[-1] <= seq:
            return 0
        return special[bisect_right(special, seq)]

    def start(self, seq: int) -> Backlog:
        """The empty backlog of all members that stand at `seq`: what follows is made once for all of them."""
        found = self._starts.get(seq)
        if found is None:
            found = self._starts[seq] = Backlog()
        return found
