"""Who is in which room on this worker, and how far the worker has come in each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from wsapp.core.history import Join, RoomTrack
from wsapp.core.room_log import RoomLog
from wsapp.core.session import Session, State, Subscription


class Room:
    """One room on one worker.

    `join` is set while the worker itself is catching up (opening the room, or healing a hole): records are held
    in it and nothing is passed on.  `log` has what was passed on; its members are served up to `ready`, and all live
    ones were up to `served`.
    """

    __slots__ = ("_live", "gap", "held", "join", "log", "members", "name", "open", "queued", "served",
                 "slice", "track")

    def __init__(self, name: str) -> None:
        self.name = name
        self.track, self.log = RoomTrack(), RoomLog()
        self.members: dict[Session, Subscription] = {}
        self.open = False
        self.gap = False  # live records may have been lost while `join` reads
        self.join: Join | None = None
        self.held: deque[int] = deque()  # numbers that are held until a critical event is kept, and what follows them
        self.served = 0
        self.queued = False  # it waits for its turn at the fan-out
        self.slice: Slice | None = None  # the pass through the members that is under way
        self._live: tuple[Subscription, ...] | None = None

    @property
    def ready(self) -> int:
        """The newest number that may be sent."""
        return self.held[0] - 1 if self.held else self.log.head

    def changed(self) -> None:
        """The members or their states changed: the next publication looks anew."""
        self._live = None

    def live(self) -> tuple[Subscription, ...]:
        """The live subscriptions, shared by all publications until somebody comes or goes."""
        if self._live is None:
            self._live = tuple(sub for sub in self.members.values() if sub.state is State.LIVE)
        return self._live


class Slice:
    """A pass through the members of a room that brings them to `goal`, some at a time."""

    __slots__ = ("goal", "live", "start")

    def __init__(self, live: tuple[Subscription, ...], goal: int) -> None:
        self.live, self.goal, self.start = live, goal, 0

    def take(self, count: int) -> tuple[Subscription, ...]:
        """The next `count` members."""
        start, self.start = self.start, self.start + count
        return self.live[start:self.start]

    @property
    def done(self) -> bool:
        """Whether all had their turn."""
        return self.start >= len(self.live)


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
