"""History reads of one worker, shared: a thousand clients that come back at once cost a few calls, not a thousand.

Reads that are asked for while one is under way go out together as the next one, each distinct query once; of one room
the earliest position serves the later ones.  What was read is remembered for a moment, so that the next in line
needs only what has been published since, and all of them share the publications and their encoded frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from wsapp.core.events import Position, Publication
from wsapp.core.ports import Broker, HistoryPage, HistoryQuery
from wsapp.errors import BrokerUnavailable

GATHER: Final = 0.003  # seconds that a read waits for company when the one before has just ended
JUST: Final = 0.05  # seconds for which it has "just" ended
UNUSED: Final = 1.0  # seconds after which what nobody asked for is forgotten
OLDEST: Final = 5.0  # seconds for which a read is remembered at most
MOST_BYTES: Final = 16_000_000  # of data remembered, over all rooms

Known = Callable[[str], Position | None]


class _Recent:
    """A contiguous stretch of one room's history: what follows `since`, up to `end`.  `first` as in the last page."""

    __slots__ = ("_publications", "bytes", "end", "epoch", "first", "made", "since", "used")

    def __init__(self, since: int, page: HistoryPage, now: float) -> None:
        self.epoch, self.since, self.end = page.head.epoch, since, since
        self.first, self.made, self.used, self.bytes = page.first, now, now, 0
        self._publications: list[Publication] = []

    def extend(self, page: HistoryPage) -> bool:
        """Add a page read from `end`; False when it does not fit on."""
        self.first = page.first
        for publication in page.publications:
            if publication.seq(page.room) != self.end + 1:
                return False
            self._publications.append(publication)
            self.bytes += len(publication.body)
            self.end += 1
        return True

    def holds(self, since: int) -> bool:
        """Whether a read from there goes on within or right after the stretch."""
        return self.since <= since <= self.end

    def after(self, since: int, limit: int) -> tuple[Publication, ...]:
        """At most `limit` of what follows."""
        start = since - self.since
        return tuple(self._publications[start:start + limit])


class _Flight:
    """Reads that go out together."""

    def __init__(self) -> None:
        self.wanted: dict[HistoryQuery, None] = {}
        self.pages: dict[HistoryQuery, HistoryPage] = {}
        self.error: BrokerUnavailable | None = None
        self.done = Event()

    def fail(self, error: BrokerUnavailable) -> None:
        """Tell all that wait for it."""
        self.error = error
        self.done.set()


class SharedReads:
    """`known(room)` is how far this worker passes a room on; None while it does not follow it."""

    def __init__(self, broker: Broker, known: Known, clock: Callable[[], float] = time.monotonic) -> None:
        self.broker, self._known, self._clock = broker, known, clock
        self._gathering: _Flight | None = None
        self._turn = BoundedSemaphore()
        self._recent: dict[str, _Recent] = {}
        self._ended = float("-inf")

    # -- asking

    def read(self, queries: Sequence[HistoryQuery]) -> list[HistoryPage]:
        """As `Broker.read`: each page is of a moment after this call.  Raises BrokerUnavailable, with the call before
        it when that fails."""
        flight, leads = self._board(queries)
        if leads:
            self._lead(flight)
        else:
            flight.done.wait()
        if flight.error is not None:
            raise flight.error
        return [flight.pages[query] for query in queries]

    def catch_up(self, queries: Sequence[HistoryQuery]) -> list[HistoryPage]:
        """As `read`, for those who hold what comes live from now on: what a moment ago was read up to where the worker
        stands is not read again."""
        pages = {query: page for query in queries if (page := self._remembered(query)) is not None}
        left = [query for query in queries if query not in pages]
        if left:
            pages.update(zip(left, self.read(left), strict=True))
        return [pages[query] for query in queries]

    def forget(self) -> None:
        """The server may have lost some of what was read."""
        self._recent.clear()

    def prune(self) -> None:
        """Forget what nobody asks for any more."""
        now = self._clock()
        for room, recent in list(self._recent.items()):
            if now - recent.used > UNUSED or now - recent.made > OLDEST:
                del self._recent[room]

    def _remembered(self, query: HistoryQuery) -> HistoryPage | None:
        recent, stands = self._recent_for(query), self._known(query.room)
        if recent is None or stands is None or stands.epoch != recent.epoch or stands.seq > recent.end:
            return None
        return HistoryPage(query.room, Position(recent.epoch, recent.end), recent.first,
                           recent.after(query.since or 0, query.limit))

    def _recent_for(self, query: HistoryQuery) -> _Recent | None:
        recent = self._recent.get(query.room)
        if recent is None or query.backwards or query.since is None or not recent.holds(query.since):
            return None
        recent.used = self._clock()
        return recent if recent.used - recent.made <= OLDEST else None

    # -- one flight after the other

    def _board(self, queries: Iterable[HistoryQuery]) -> tuple[_Flight, bool]:
        flight, leads = self._gathering, self._gathering is None
        if flight is None:
            flight = self._gathering = _Flight()
        flight.wanted.update(dict.fromkeys(queries))
        return flight, leads

    def _lead(self, flight: _Flight) -> None:
        try:
            with self._turn:
                if self._clock() - self._ended < JUST:
                    gevent.sleep(GATHER)
                if self._gathering is flight:
                    self._gathering = None
                if flight.error is None:
                    self._fly(flight)
        finally:
            if self._gathering is flight:
                self._gathering = None
            if not flight.done.is_set():  # its leader was killed
                flight.fail(BrokerUnavailable("the read was interrupted; try again"))

    def _fly(self, flight: _Flight) -> None:
        try:
            self._ask(flight)
            flight.done.set()
        except BrokerUnavailable as error:
            flight.fail(error)
            following, self._gathering = self._gathering, None
            if following is not None:  # nobody waits for a second time-out
                following.fail(error)
        finally:
            self._ended = self._clock()

    def _ask(self, flight: _Flight) -> None:
        self.prune()
        left = list(flight.wanted)
        while left:
            asked = _merged([(query, self._recent_for(query)) for query in left])
            pages = self.broker.read([call.query() for call in asked])
            left = []
            for call, page in zip(asked, pages, strict=True):
                if call.outdated(page):
                    self._recent.pop(page.room, None)
                    left += call.served
                else:
                    self._answer(flight, call, page)

    def _answer(self, flight: _Flight, call: _Call, page: HistoryPage) -> None:
        if call.since is None or call.served[0].backwards:
            flight.pages[call.served[0]] = page
            return
        recent = call.recent or _Recent(call.since, page, self._clock())
        before = recent.after(recent.since, recent.end - recent.since)
        if recent.extend(page):
            self._remember(recent, page)
            for query in call.served:
                flight.pages[query] = replace(
                    page, publications=recent.after(query.since or 0, query.limit))
            return
        self._recent.pop(page.room, None)
        for query in call.served:
            found = [one for one in (*before, *page.publications) if one.seq(page.room) > (query.since or 0)]
            flight.pages[query] = replace(page, publications=tuple(found[:query.limit]))

    def _remember(self, recent: _Recent, page: HistoryPage) -> None:
        self._recent.pop(page.room, None)
        known = recent.bytes + sum(other.bytes for other in self._recent.values())
        if known <= MOST_BYTES and recent.end <= page.head.seq:
            self._recent[page.room] = recent


class _Call:
    """One query that is really asked, and those it serves."""

    def __init__(self, first: HistoryQuery, recent: _Recent | None) -> None:
        self.served, self.recent, self.limit = [first], recent, 0
        self.since = first.since if recent is None else recent.end
        self._want(first)

    def _want(self, query: HistoryQuery) -> None:
        """As much as it would get alone.  What is remembered needs no record, only the head."""
        if self.recent is None:
            self.limit = max(self.limit, (query.since or 0) - (self.since or 0) + query.limit)
        elif (query.since or 0) + query.limit > self.recent.end:
            self.limit = max(self.limit, query.limit)

    def serve(self, query: HistoryQuery, recent: _Recent | None) -> bool:
        """Answer this one as well, if it begins where this call brings something."""
        if query.since is None or self.since is None or query.backwards or recent is not self.recent:
            return False
        if recent is None and not self.since <= query.since < self.since + self.served[0].limit:
            return False
        self.served.append(query)
        self._want(query)
        return True

    def query(self) -> HistoryQuery:
        """What to ask for."""
        first = self.served[0]
        return HistoryQuery(first.room, self.since, self.limit, first.backwards)

    def outdated(self, page: HistoryPage) -> bool:
        """Whether what is remembered belongs to another history than the page."""
        recent = self.recent
        return recent is not None and (page.head.epoch != recent.epoch or page.head.seq < recent.end)


def _merged(wanted: list[tuple[HistoryQuery, _Recent | None]]) -> list[_Call]:
    """As few calls as serve them all, each room's from the earliest position on."""
    calls: list[_Call] = []
    last: dict[tuple[str, bool], _Call] = {}
    for query, recent in sorted(wanted, key=_by_position):
        key = query.room, recent is None
        if key not in last or query.backwards or not last[key].serve(query, recent):
            call = _Call(query, recent)
            calls.append(call)
            if not query.backwards:
                last[key] = call
    return calls


def _by_position(wanted: tuple[HistoryQuery, _Recent | None]) -> tuple[str, int]:
    query, _ = wanted
    return query.room, -1 if query.since is None else query.since
