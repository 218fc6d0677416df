"""Rooms take turns: what cannot be served on the spot waits here, and no room delays another by more than a slice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import gevent
from gevent.event import Event

from wsapp.core.events import Publication
from wsapp.core.registry import Room, Turn
from wsapp.core.session import Subscription

SLICE: Final = 256  # members served before other rooms and clients get their turn
JOINED: Final = 16_384  # bytes of publications that go to a member together
BACKLOG: Final = 16_000_000  # bytes of publications from which on a room that waits takes no more


class Turns:
    """`serve(room, turn, members)` serves a slice; `may_go(publication)` is False while one must not go out yet: its
    room waits until it is `release`d."""

    def __init__(self, serve: Callable[[Room, Turn, Sequence[Subscription]], None],
                 may_go: Callable[[Publication], bool]) -> None:
        self._serve, self._may_go = serve, may_go
        self.queue: deque[Room] = deque()  # the rooms that wait, in their order
        self._work = Event()
        self._bytes = 0
        self.backlog = BACKLOG
        self.caught_up: Callable[[Room], None] = _nothing  # a room that was behind has no turn left

    def full(self, room: Room) -> bool:
        """Whether a room has fallen behind: more is published than this worker can pass on."""
        if room.pending and self._bytes > self.backlog:
            room.behind = True
        return room.behind

    def add(self, room: Room, publication: Publication, seq: int, live: tuple[Subscription, ...], *,
            joins: bool) -> None:
        """Let a publication wait behind those of its room.  One that `joins` goes out together with the one before it
        when that joins as well, is for the same members and has not begun."""
        last = room.pending[-1] if room.pending else None
        self._bytes += len(publication.body)
        if (last is not None and joins and last.joins and last.live is live and last.start == 0
                and last.size + len(publication.body) <= JOINED):
            last.add(publication, seq)
            return
        room.pending.append(Turn(publication, seq, live, joins))
        if last is None:
            self._enter(room)

    def release(self, room: Room, publication: Publication) -> None:
        """A publication that was held may go now."""
        if room.pending and room.pending[0].items[0][0] is publication:
            self._enter(room)

    def _enter(self, room: Room) -> None:
        if self._has_turn(room):
            self.queue.append(room)
            self._work.set()

    def _has_turn(self, room: Room) -> bool:
        return bool(room.pending) and self._may_go(room.pending[0].items[0][0])

    def run(self) -> None:
        """Serve the rooms in turns; one greenlet runs this."""
        while True:
            self._work.wait()
            self._work.clear()
            while self.queue:
                room = self.queue.popleft()
                if self._has_turn(room):
                    self._serve_slice(room)
                if self._has_turn(room):
                    self.queue.append(room)
                gevent.sleep(0)

    def finish(self, room: Room) -> None:
        """Serve now what still waits in a room."""
        while room.pending:
            self._serve_slice(room)

    def _serve_slice(self, room: Room) -> None:
        turn = room.pending[0]
        members = turn.take(SLICE)
        if turn.done:
            room.pending.popleft()
            self._bytes -= turn.size
        self._serve(room, turn, members)
        if room.behind and not room.pending:
            room.behind = False
            self.caught_up(room)


def _nothing(_room: Room) -> None:
    return None
