"""Positions in a room's history, and how a subscription gets from an old one to live without a hole (G3)."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, StrEnum, auto
from typing import Final, NamedTuple

from wsapp.core.events import Position, Publication
from wsapp.core.ports import HistoryPage, HistoryQuery

_MAX_FRUITLESS: Final = 8  # reads in a row that bring nothing although something is missing


class Verdict(Enum):
    """What a live record is to a worker that tracks its room."""

    DELIVER = auto()    # the next one
    DUPLICATE = auto()  # delivered before
    HOLE = auto()       # some before it are missing: read them from history
    NEW_EPOCH = auto()  # the room's numbering has begun anew: the position means nothing any more


class RoomTrack:
    """A worker's position in a room: `seq` of `epoch` was the last one delivered.  A new one stands nowhere: any
    record is of a new epoch until `reset`."""

    __slots__ = ("epoch", "seq")

    def __init__(self, epoch: str = "", seq: int = 0) -> None:
        self.epoch, self.seq = epoch, seq

    def offer(self, seq: int, epoch: str) -> Verdict:
        """Judge a live record; DELIVER advances the position, nothing else does."""
        if epoch != self.epoch:
            return Verdict.NEW_EPOCH
        if seq == self.seq + 1:
            self.seq = seq
            return Verdict.DELIVER
        return Verdict.DUPLICATE if seq <= self.seq else Verdict.HOLE

    def reset(self, position: Position) -> None:
        """Stand at `position`."""
        self.epoch, self.seq = position

    @property
    def position(self) -> Position:
        """Where the worker stands."""
        return Position(self.epoch, self.seq)


class Reason(StrEnum):
    """Why a recovery was refused, as the client is told it."""

    EPOCH = "epoch"        # the room's history is another one than the position's
    TRIMMED = "trimmed"    # something after the position is no longer kept
    AHEAD = "ahead"        # the position is one that the room has not reached
    TOO_MANY = "too_many"  # more is missing than is replayed


class More(NamedTuple):
    """Read the next page: what comes after `since`."""

    since: int


class Recovered(NamedTuple):
    """Everything after the asked position up to `position`, in order and without a hole; live goes on after it."""

    publications: tuple[Publication, ...]
    position: Position


class Refused(NamedTuple):
    """Nothing is replayed.  Live goes on after `position`; `missed` publications lie between it and the asked
    position, those held meanwhile included (for `epoch`: all of the new history, the rest can't be known)."""

    reason: Reason
    missed: int
    position: Position


Step = More | Recovered | Refused


class Join:
    """One subscription on its way to live.

    The room's live channel must be confirmed before the first read; until the end every live record of the room goes
    to `hold`.  Then, as long as the answer is More::

        step = join.page(broker.read([join.query()])[0])

    `since=None` starts at the head of the first page read: nothing older is replayed.  Held publications are
    bounded in items and bytes: past it the oldest go, and are read from history again.  What is replayed is bounded
    by `max_replay` items and `max_bytes` bytes, past which the answer is Refused.
    """

    __slots__ = ("_asked", "_bytes", "_cursor", "_doubted", "_epoch", "_found", "_fruitless", "_held", "_held_bytes",
                 "_held_epoch", "_max_bytes", "_max_held", "_max_replay", "_start", "done", "room")

    def __init__(self, room: str, since: Position | None, max_held: int = 1000, max_replay: int = 10_000,
                 max_bytes: int = 8_000_000) -> None:
        if max_held < 1 or max_replay < 0 or max_bytes < 1:
            raise ValueError("max_held, max_replay and max_bytes must be positive")
        self.room, self.done = room, False
        self._asked = since is not None
        self._epoch = since.epoch if since else ""
        self._start: int | None = since.seq if since else None  # None until the first page names the head
        self._cursor = since.seq if since else 0
        self._max_held, self._max_replay, self._max_bytes = max_held, max_replay, max_bytes
        self._found: list[Publication] = []
        self._held: OrderedDict[int, Publication] = OrderedDict()
        self._held_epoch, self._doubted = "", ""
        self._bytes = self._held_bytes = self._fruitless = 0

    def query(self, limit: int = 1000) -> HistoryQuery:
        """What to read next."""
        if self._start is None:
            return HistoryQuery(self.room, None, 1, backwards=True)
        return HistoryQuery(self.room, self._cursor, limit)

    def hold(self, publication: Publication, seq: int) -> bool:
        """Keep a live record, which come in order of seq.  False: something older was let go for it, so that the
        next page leads to another read.  Raises KeyError when it was not published in the room, RuntimeError when
        the join has ended."""
        if self.done:
            raise RuntimeError("the join has ended: deliver live")
        epoch = self._epoch_of(publication)
        if epoch != self._held_epoch:
            self._let_go(len(self._held))
            self._held_epoch = epoch
        if seq not in self._held:
            self._held[seq] = publication
            self._held_bytes += len(publication.body)
        kept = True
        while len(self._held) > 1 and (len(self._held) > self._max_held or self._held_bytes > self._max_bytes):
            self._let_go(1)
            kept = False
        return kept

    @property
    def holds(self) -> bool:
        """Whether anything came live that is still to be passed on."""
        return bool(self._held)

    def page(self, page: HistoryPage) -> Step:
        """Take one page, read forwards from `query()`.  After Recovered or Refused the join has ended and holds
        nothing; a further page raises RuntimeError."""
        if self.done:
            raise RuntimeError("the join has ended")
        step = self._judge(page)
        if not isinstance(step, More):
            self.done = True
            self._found = []
            self._let_go(len(self._held))
        return step

    def _judge(self, page: HistoryPage) -> Step:
        if self._held and self._held_epoch != page.head.epoch and not self._page_is_newer():
            return More(self._cursor)
        if not self._asked and (self._start is None or page.head.epoch != self._epoch):
            self._begin(page.head)
        elif page.head.epoch != self._epoch:
            return self._refuse(Reason.EPOCH, page)
        elif self._start is not None and page.head.seq < self._start:
            return self._refuse(Reason.AHEAD, page)
        if self._newest(page).seq - (self._start or 0) > self._max_replay:
            return self._refuse(Reason.TOO_MANY, page)
        before = self._cursor
        if not self._feed(page):
            return self._refuse(Reason.TRIMMED, page)
        if self._bytes > self._max_bytes:
            return self._refuse(Reason.TOO_MANY, page)
        if self._cursor == self._newest(page).seq:
            return Recovered(tuple(self._found), Position(self._epoch, self._cursor))
        self._fruitless = 0 if self._cursor > before else self._fruitless + 1
        if page.first > self._cursor + 1 or self._fruitless >= _MAX_FRUITLESS:
            return self._refuse(Reason.TRIMMED, page)
        return More(self._cursor)

    def _page_is_newer(self) -> bool:
        """Held and page are of different epochs.  A page read after the held ones came cannot be the older: the
        first time read again, the second time the held ones are of the past."""
        if self._doubted == self._held_epoch:
            self._let_go(len(self._held))
            return True
        self._doubted = self._held_epoch
        return False

    def _begin(self, head: Position) -> None:
        self._epoch, self._start, self._cursor = head.epoch, head.seq, head.seq
        self._found, self._bytes, self._fruitless = [], 0, 0

    def _feed(self, page: HistoryPage) -> bool:
        """Append what follows the cursor without a hole, from the page and the held ones; False on a hole within
        the page that the held ones don't fill."""
        for publication in page.publications:
            seq = publication.seq(self.room)
            if seq <= self._cursor:
                continue
            self._bridge(seq)
            if seq != self._cursor + 1:
                return False
            self._append(seq, publication)
        self._bridge(None)
        while self._held and next(iter(self._held)) <= self._cursor:
            self._let_go(1)
        return True

    def _bridge(self, end: int | None) -> None:
        """Append held ones from the cursor on, before `end`."""
        while (publication := self._held.get(self._cursor + 1)) is not None and self._cursor + 1 != end:
            self._append(self._cursor + 1, publication)

    def _append(self, seq: int, publication: Publication) -> None:
        self._found.append(publication)
        self._bytes += len(publication.body)
        self._cursor = seq

    def _newest(self, page: HistoryPage) -> Position:
        last = next(reversed(self._held)) if self._held and self._held_epoch == page.head.epoch else 0
        reached = self._cursor if self._found and self._epoch == page.head.epoch else 0
        return Position(page.head.epoch, max(page.head.seq, last, reached))

    def _refuse(self, reason: Reason, page: HistoryPage) -> Refused:
        position = self._newest(page)
        since = self._start if self._start is not None and page.head.epoch == self._epoch else 0
        return Refused(reason, max(0, position.seq - since), position)

    def _epoch_of(self, publication: Publication) -> str:
        for place in publication.places:
            if place.room == self.room:
                return place.epoch
        raise KeyError(self.room)

    def _let_go(self, count: int) -> None:
        for _ in range(count):
            _, publication = self._held.popitem(last=False)
            self._held_bytes -= len(publication.body)
