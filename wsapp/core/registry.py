"""Who is in which room on this worker, and how far the worker has come in each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from wsapp.core.events import Publication
from wsapp.core.history import Join, RoomTrack
from wsapp.core.session import Session, State, Subscription


class Turn:
    """Publications of a room that wait for their turn at the fan-out, with the members of their time; those before
    `start` have them already.  `joins`: others may go together with them."""

    __slots__ = ("items", "joins", "live", "size", "start")

    def __init__(self, publication: Publication, seq: int, live: tuple[Subscription, ...], joins: bool) -> None:
        self.items = [(publication, seq)]
        self.live, self.start, self.joins = live, 0, joins
        self.size = len(publication.body)

    def add(self, publication: Publication, seq: int) -> None:
        """One more that goes with the others."""
        self.items.append((publication, seq))
        self.size += len(publication.body)

    def take(self, count: int) -> tuple[Subscription, ...]:
        """The next `count` members."""
        start, self.start = self.start, self.start + count
        return self.live[start:self.start]

    @property
    def done(self) -> bool:
        return self.start >= len(self.live)


class Room:
    """One room on one worker.

    `join` is set while the worker itself is catching up (opening the room, or healing a hole): records are held
    in it and nothing is passed on.  `pending` waits for its turn at the fan-out; a room that is `behind` has left what
    came after that in the history, and reads it from there when its turns are over.
    """

    __slots__ = ("_live", "behind", "gap", "join", "members", "name", "open", "pending", "track")

    def __init__(self, name: str) -> None:
        self.name = name
        self.track = RoomTrack()
        self.members: dict[Session, Subscription] = {}
        self.open = self.behind = False
        self.gap = False  # live records may have been lost while `join` reads
        self.join: Join | None = None
        self.pending: deque[Turn] = deque()
        self._live: tuple[Subscription, ...] | None = None

    def changed(self) -> None:
        """The members or their states changed: the next publication looks anew."""
        self._live = None

    def live(self) -> tuple[Subscription, ...]:
        """The live subscriptions, shared by all publications until somebody comes or goes."""
        if self._live is None:
            self._live = tuple(sub for sub in self.members.values() if sub.state is State.LIVE)
        return self._live

    def recovering(self) -> list[Subscription]:
        """Members that hold publications back for now."""
        if len(self.live()) == len(self.members):
            return []
        return [sub for sub in self.members.values() if sub.join is not None]


def _nobody(_room: str) -> None:
    return None


class Registry:
    """The rooms of this worker.  `moved(room)` is called when somebody has come to or gone from a room in `asked`."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.asked: set[str] = set()  # rooms whose comings and goings somebody asks for
        self.moved: Callable[[str], None] = _nobody

    def join(self, session: Session, name: str) -> Subscription:
        """Make the session a member; returns its subscription, new or as it was."""
        held = session.subs.get(name)
        if held is not None:
            return held
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(name)
        sub = Subscription(session, room)
        room.members[session] = session.subs[name] = sub
        room.changed()
        if name in self.asked:
            self.moved(name)
        return sub

    def leave(self, session: Session, name: str) -> bool:
        """End the membership; False when there was none."""
        sub = session.subs.pop(name, None)
        if sub is None:
            return False
        sub.state = State.LEFT
        session.sent += sub.count
        sub.room.members.pop(session, None)
        sub.room.changed()
        if name in self.asked:
            self.moved(name)
        return True

    def leave_all(self, session: Session) -> None:
        for name in list(session.subs):
            self.leave(session, name)

    def vacant(self) -> list[Room]:
        """Rooms without a member, whose live channel is not needed any more."""
        return [room for room in self.rooms.values() if not room.members]

    def forget(self, room: Room) -> None:
        """Drop a vacant room."""
        if not room.members and self.rooms.get(room.name) is room:
            del self.rooms[room.name]
