"""Who watches a room, for the clients that asked: members with the acknowledgement, then who came and who went.

Nothing of this costs a room in which nobody asked, but for its count with each beat.  Where somebody asks, every
worker says which users it has there; a change is told to the workers that ask, which read the whole anew and tell
their clients the difference.  So a message that is lost, or a worker that dies, is made good with the next beat.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool

from wsapp.core.connections import ConnectionManager
from wsapp.core.events import KINDS, packet
from wsapp.core.ports import Presence
from wsapp.core.session import Session
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.cluster_calls import ClusterCalls
from wsapp.runtime.link import Links
from wsapp.transport.frames import Frame

log = logging.getLogger(__name__)

GATHER: Final = 0.05  # seconds over which comings and goings are gathered into one event
RETRY: Final = 0.5  # seconds between attempts while Redis is away
SUBSCRIBED_AT_ONCE: Final = 16  # rooms of one session whose members are asked for at the same time
MOST_NAMED: Final = 1000  # users in one list; all are counted
TRACK: Final = "track"  # the question to every worker when a room is asked for the first time
PRESENCE: Final = "presence"  # control message: a room has changed


class PresenceKeeper:
    """One worker's.  `views` are the members as this worker's clients were last told them."""

    def __init__(self, presence: Presence, connections: ConnectionManager, links: Links) -> None:
        self._presence, self._connections, self._links = presence, connections, links
        self._registry = connections.registry
        self._registry.moved = self._moved
        self.boot, self.ttl = "", 6.0
        self.calls: ClusterCalls | None = None
        self._asking: dict[str, set[Session]] = {}
        self._said: dict[str, dict[str, int]] = {}
        self._counts: dict[str, int] | None = None
        self.views: dict[str, dict[str, int]] = {}
        self._moved_rooms: set[str] = set()
        self._changed_rooms: set[str] = set()
        self._over: set[str] = set()  # rooms that this worker asks for no more
        self._returned: deque[tuple[Session, str]] = deque()
        self._wake = Event()
        self._lock = BoundedSemaphore()

    # -- clients

    def subscribe(self, session: Session, room: str) -> dict[str, object]:
        """From now on the session is told who comes and goes; who is there now, itself included.  Raises
        BrokerUnavailable."""
        with self._lock:
            first = room not in self._asking
            if first:
                self._presence.ask(self.boot, room, self.ttl)
            session.watching |= {room}
            session.dirty = True
            self._asking.setdefault(room, set()).add(session)
        if first and room not in self._registry.asked and self.calls is not None:
            self.calls.ask(TRACK, room)  # when it is back, every worker has said whom it has there
        self.track(room)
        with self._lock:
            return _listed(self._look(room, session))

    def subscribe_all(self, session: Session, rooms: Sequence[str]) -> dict[str, dict[str, object]]:
        """As `subscribe`, of several rooms at the same time: each may wait for the other workers."""
        answers = Pool(SUBSCRIBED_AT_ONCE).map(partial(self.subscribe, session), rooms)
        return dict(zip(rooms, answers, strict=True))

    def returned(self, session: Session, rooms: Iterable[str]) -> None:
        """A session that had asked is back: soon it is told `presence` of each room, with all `members`."""
        self._returned.extend((session, room) for room in rooms)
        if self._returned:
            self._wake.set()

    def _greet_returned(self) -> None:
        while self._returned:
            session, room = self._returned[0]
            if room in session.subs:
                told = {"room": room, "joined": [], "left": [], **self.subscribe(session, room)}
                session.peer.push(Frame(packet("presence", told)))
            self._returned.popleft()

    def track(self, room: str) -> bool:
        """Say whom this worker has in the room, and from now on who comes and goes.  Raises BrokerUnavailable."""
        self._registry.asked.add(room)
        with self._lock:
            self._say(room)
        return True

    def answer_track(self, room: str) -> bool:
        """As `track`, for a question of another worker; what fails now is done with the next beat."""
        try:
            return self.track(room)
        except BrokerUnavailable as error:
            log.info("presence of %s is told later: %s", room, error)
            self._moved(room)
            return False

    # -- from elsewhere

    def _moved(self, room: str) -> None:
        """Somebody has come or gone here."""
        self._moved_rooms.add(room)
        self._wake.set()

    def on_control(self, verb: str, room: str) -> bool:
        """A control message; False when it is none of presence."""
        if verb == PRESENCE:
            self._changed_rooms.add(room)
            self._wake.set()
        return verb == PRESENCE

    # -- the loop

    def run(self) -> None:
        """Say and tell what has changed, gathered; one greenlet runs this."""
        while True:
            self._wake.wait()
            gevent.sleep(GATHER)
            self._wake.clear()
            try:
                self.settle()
            except BrokerUnavailable as error:
                log.info("presence waits: %s", error)
                self._links.rest_after(error, RETRY)
                self._wake.set()

    def settle(self) -> None:
        """Work off what has changed.  Raises BrokerUnavailable; the rest is then still to be done."""
        self._greet_returned()
        self._work_off(self._moved_rooms, self._say_anew)
        self._work_off(self._over, self._unask)
        self._work_off(self._changed_rooms, self._look_again)

    def _work_off(self, rooms: set[str], task: Callable[[str], object]) -> None:
        """A room is taken out before it is worked on: what changes meanwhile puts it in again."""
        while rooms:
            room = rooms.pop()
            try:
                task(room)
            except BrokerUnavailable:
                rooms.add(room)
                raise

    def _say_anew(self, room: str) -> None:
        self._prune(room)
        with self._lock:
            self._say(room)

    def _unask(self, room: str) -> None:
        with self._lock:
            if room not in self._asking:
                self._presence.unask(self.boot, room)

    def _look_again(self, room: str) -> None:
        if room in self._asking:
            with self._lock:
                self._look(room)

    def _prune(self, room: str) -> None:
        """Those who left do not ask any more."""
        asking = self._asking.get(room)
        if asking is None:
            return
        asking -= {session for session in asking if not _wants(session, room)}
        if not asking:
            del self._asking[room]
            self.views.pop(room, None)
            self._over.add(room)

    def _say(self, room: str) -> None:
        """Tell the cluster what has changed here since the last time."""
        held = self._registry.rooms.get(room) if room in self._registry.asked else None
        now = Counter(session.user_id for session in held.members) if held is not None else Counter[str]()
        said = self._said.get(room, {})
        changes = {user: now[user] for user in now.keys() | said.keys() if now[user] != said.get(user, 0)}
        if changes:
            self._presence.update(self.boot, room, changes)
        self._said[room] = dict(now)
        if not now:
            del self._said[room]

    def _look(self, room: str, newcomer: Session | None = None) -> dict[str, int]:
        """Read who is there and tell the clients here what is new to them; the newcomer gets it all at once."""
        now = self._presence.members(room)
        if room not in self._asking:
            return now
        before = self.views.get(room)
        self.views[room] = now
        if before is not None and before.keys() != now.keys():
            self._tell(room, before, now, newcomer)
        return now

    def _tell(self, room: str, before: Mapping[str, int], now: Mapping[str, int], newcomer: Session | None) -> None:
        told = {"room": room, "joined": sorted(now.keys() - before.keys())[:MOST_NAMED],
                "left": sorted(before.keys() - now.keys())[:MOST_NAMED], **_counted(now)}
        frame = Frame(packet("presence", told))
        for session in self._asking.get(room, ()):
            if _wants(session, room) and session is not newcomer:
                session.peer.push(frame)

    # -- with each beat

    def beat(self, ttl: float) -> None:
        """Renew what this worker says, and make good what was missed.  Raises BrokerUnavailable."""
        # What is said ends before the lease: who finds it still there has not been forgotten by anybody meanwhile.
        self.ttl = ttl = ttl * 0.9
        counts = {name: len(room.members) for name, room in self._registry.rooms.items()
                  if room.members and name.startswith(KINDS)}
        asked = None if self._counts is None else self._presence.sync(
            self.boot, _differences(self._counts, counts), ttl, anew=False)
        if asked is None:
            asked = self._begin_anew(counts, ttl)
        self._counts = counts
        fresh = asked - self._registry.asked
        over = self._registry.asked - asked - self._asking.keys()
        self._registry.asked |= fresh
        self._registry.asked -= over
        self._moved_rooms |= fresh | over
        self._changed_rooms |= self._asking.keys()
        if self._moved_rooms or self._changed_rooms:
            self._wake.set()

    def _begin_anew(self, counts: Mapping[str, int], ttl: float) -> frozenset[str]:
        """The lease had run out, or Redis has forgotten: say everything again."""
        for room in self._asking:
            self._presence.ask(self.boot, room, ttl)
        self._said.clear()
        self._moved_rooms |= self._registry.asked
        return self._presence.sync(self.boot, counts, ttl, anew=True) or frozenset()


def _wants(session: Session, room: str) -> bool:
    """Whether a session is in the room and may still see who else is: a newer token may have taken that away."""
    return room in session.subs and room in session.watching


def _differences(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {room: now.get(room, 0) for room in before.keys() | now.keys() if before.get(room) != now.get(room)}


def _counted(members: Mapping[str, int]) -> dict[str, int]:
    return {"users": len(members), "connections": sum(members.values())}


def _listed(members: Mapping[str, int]) -> dict[str, object]:
    return {**_counted(members), "members": sorted(members)[:MOST_NAMED]}
