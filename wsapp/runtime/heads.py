"""Where rooms stand, as the broker says it: a lost last message is found, and clients can tell how far behind they are.

A hole shows when the next record comes.  For the last one before a silence there is no next one, so the heads of the
rooms that the worker follows and in which nothing came since the last look are asked for every few seconds, in one
round trip for a thousand of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

import gevent

from wsapp.core.events import Position, Profile, packet
from wsapp.core.registry import Room
from wsapp.core.session import Session
from wsapp.runtime.canary import ROOM as CANARY_ROOM
from wsapp.runtime.delivery import Delivery, behind
from wsapp.transport.frames import Frame

ROOMS_AT_ONCE: Final = 1000
SESSIONS_AT_ONCE: Final = 256
GRACE: Final = 0.15  # seconds in which a live record that is on its way may still come


class Heads:
    """The newest known head of each room of one worker."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._known: dict[str, Position] = {}
        self._stood: dict[str, Position] = {}  # where the rooms stood at the last look

    def check(self, of: Callable[[str], bool] | None = None) -> None:
        """Ask for the heads of quiet rooms, of some or of all, and let those that are behind read on.  Raises
        BrokerUnavailable."""
        rooms = iter([room for room in self._delivery.registry.rooms.values()
                      if room.open and not room.name.startswith(CANARY_ROOM) and (of is None or of(room.name))
                      and self._is_quiet(room)])
        known: dict[str, Position] = {}
        while chunk := list(islice(rooms, ROOMS_AT_ONCE)):
            heads = self._delivery.broker.heads([room.name for room in chunk])
            known |= heads
            late = [room for room in chunk if behind(room.track.position, heads[room.name])]
            if late:
                gevent.sleep(GRACE)
                for room in late:
                    self._delivery.verify(room, heads[room.name])
        self._known = known
        self._stood = {room.name: room.track.position for room in self._delivery.registry.rooms.values()}

    def _is_quiet(self, room: Room) -> bool:
        return self._stood.get(room.name, room.track.position) == room.track.position

    def beacon(self, sessions: Iterable[Session]) -> None:
        """Tell every session of the sdk profile the heads of its rooms: `beacon {rooms: {room: {epoch, seq}}}`.
        Sessions in the same rooms share the frame."""
        frames: dict[tuple[str, ...], Frame] = {}
        for number, session in enumerate(sessions, 1):
            if session.profile is Profile.SDK and session.subs:
                names = tuple(session.subs)
                if names not in frames:
                    frames[names] = Frame(packet("beacon", {"rooms": {
                        name: self._head(sub.room)._asdict() for name, sub in session.subs.items()}}))
                session.peer.push(frames[names])
            if number % SESSIONS_AT_ONCE == 0:
                gevent.sleep(0)

    def _head(self, room: Room) -> Position:
        """The newer of what the broker said and where the worker stands."""
        at = room.track.position
        known = self._known.get(room.name, at)
        return known if known.epoch == at.epoch and known.seq > at.seq else at
