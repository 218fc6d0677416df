"""ConnectionManager: who is connected to this worker, in which rooms, and what of it survives a reconnect.

Reconnect state is kept per session (never per user: a user's tabs are separate) in the session store, for ten
minutes by default, fenced by owner, so that any worker can resume it and a late disconnect of an old connection
changes nothing.  Activity is any packet, PONG included: a silent watcher is not stale.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from wsapp.core.events import Profile, Publication, strict_dumps
from wsapp.core.ports import ANONYMOUS, SavedSession, SessionStore
from wsapp.core.registry import Registry
from wsapp.core.session import MAX_METADATA, Peer, Session, Subscription
from wsapp.core.throttle import EventThrottler
from wsapp.errors import BrokerUnavailable, CloseCode, ErrorCode, RequestError

MOST_UNSAVED: Final = 10_000  # sessions that ended while the store was away


@dataclass(frozen=True, slots=True)
class Connection:
    """A snapshot of one connection.  Times are of the manager's clock, in seconds."""

    sid: str
    session_id: str
    user_id: str
    rooms: tuple[str, ...]
    metadata: Mapping[str, object]
    connected_at: float
    last_activity: float
    messages_received: int
    messages_sent: int


class ConnectionManager:
    """The connections of one worker.  No I/O but through `store`; `clock` gives seconds."""

    def __init__(self, store: SessionStore, registry: Registry | None = None, throttler: EventThrottler | None = None,
                 *, boot: str = "local", clock: Callable[[], float] = time.monotonic,
                 active_within: float = 300.0, stale_after: float = 600.0) -> None:
        self.store = store
        self.registry = registry or Registry()
        self.throttler = throttler or EventThrottler(clock=clock)
        self.boot, self._clock = boot, clock
        self._active_within, self._stale_after = active_within, stale_after
        self._by_sid: dict[str, Session] = {}
        self._by_id: dict[str, Session] = {}
        self._by_user: dict[str, dict[str, Session]] = {}
        self.unsaved: OrderedDict[str, SavedSession] = OrderedDict()
        self.total = self.peak = 0

    # -- coming and going

    def owner_of(self, sid: str) -> str:
        """The fencing name of a connection: `<boot>:<sid>`."""
        return f"{self.boot}:{sid}"

    def handle_connection(self, sid: str, peer: Peer, user_id: str | None = None, *, session_id: str | None = None,
                          profile: Profile = Profile.PLAIN, metadata: Mapping[str, object] | None = None) -> Session:
        """Register a connection.  Without a user it is `anon:<a name of its own>`, which says nothing about the session
        id; without a session id a new secret one is made.  Raises ValueError when the sid is already connected."""
        if sid in self._by_sid:
            raise ValueError(f"{sid} is already connected")
        session_id = session_id or secrets.token_urlsafe(18)
        user_id = user_id or ANONYMOUS + secrets.token_urlsafe(9)
        queue = self.throttler.register(user_id, sid, profile is Profile.SDK, peer)
        session = Session(session_id, sid, user_id, self.owner_of(sid), profile, peer, queue, self._clock(),
                          dict(metadata or {}))
        self._by_sid[sid] = self._by_id[session_id] = session
        self._by_user.setdefault(user_id, {})[sid] = session
        self.total += 1
        self.peak = max(self.peak, len(self._by_sid))
        return session

    def handle_disconnection(self, sid: str) -> Session | None:
        """Take a connection off the books and save its session, unless another connection owns it by now.

        Raises BrokerUnavailable after the books are straight, when the store could not be reached; the state is then
        in `unsaved`, for whoever tries again.
        """
        session = self.forget(sid)
        if session is None:
            return None
        saved = self.saved(session)
        self.registry.leave_all(session)
        if saved.positions:
            try:
                self.store.save([saved])
            except BrokerUnavailable:
                self.unsaved[saved.session_id] = saved
                if len(self.unsaved) > MOST_UNSAVED:
                    self.unsaved.popitem(last=False)
                raise
        return session

    def rename(self, session: Session) -> None:
        """Give a session a new secret id: the old one stands for a state that could not be resumed.  Another
        connection may have taken that id over meanwhile, and given it up again."""
        if self._by_id.get(session.id) is session:
            del self._by_id[session.id]
        session.id = secrets.token_urlsafe(18)
        self._by_id[session.id] = session

    def forget(self, sid: str) -> Session | None:
        """Take a connection off the books without saving; its rooms are left to the caller."""
        session = self._by_sid.pop(sid, None)
        if session is None:
            return None
        if self._by_id.get(session.id) is session:
            del self._by_id[session.id]
        others = self._by_user[session.user_id]
        del others[sid]
        self.throttler.forget(session.user_id, session.sid)
        if not others:
            del self._by_user[session.user_id]
        return session

    def handle_reconnection(self, session_id: str, sid: str, user_id: str | None = None) -> SavedSession | None:
        """Take over the saved state of a session for the connection `sid`, from whichever worker had it; None when
        there is none (never saved, or older than its time to live).  A connection on this worker that still holds
        the session is closed with `REPLACED`.  `user_id` is who asks ("" for nobody); for the session of another
        named user PermissionError is raised and nothing changes."""
        saved = self.store.take(session_id, self.owner_of(sid), user_id)
        holder = self._by_id.get(session_id)
        if holder is not None and holder.sid != sid and (saved is not None or user_id in (None, holder.user_id)):
            holder.peer.close(CloseCode.REPLACED, "the session was taken over by a newer connection")
        return saved

    def saved(self, session: Session) -> SavedSession:
        """The session as it is stored."""
        watching = tuple(sorted(session.watching & session.subs.keys())) if session.watching else ()
        return SavedSession(session.id, session.user_id, session.owner, session.positions(), session.metadata,
                            watching, tuple(sorted(session.host_state)))

    # -- rooms and metadata

    def join_room(self, sid: str, room: str) -> Subscription:
        """Make a connection a member of a room.  Raises KeyError for an unknown sid."""
        return self.registry.join(self._by_sid[sid], room)

    def leave_room(self, sid: str, room: str) -> bool:
        """End a membership; False when there was none.  Raises KeyError for an unknown sid."""
        session = self._by_sid[sid]
        sub = session.subs.get(room)
        if sub is not None and session.queue.behind:
            self._hand_over(session, sub)
        return self.registry.leave(session, room)

    def _hand_over(self, session: Session, leaving: Subscription) -> None:
        """What waits in a room that is left and was to come through it to other rooms of the session waits there."""
        for sub in session.subs.values():
            if sub.behind:
                sub.gather(self.throttler.max_items, self.throttler.max_bytes)
        waits = leaving.backlog.waits
        leaving.drop()
        self.throttler.drop(session.user_id, session.sid, leaving.room.name)
        for waiting in waits:
            places = waiting.item.places if isinstance(waiting.item, Publication) else ()
            for place in places:
                other = session.subs.get(place.room)
                if other is not None and other is not leaving and place.seq <= other.sent:
                    other.owe(waiting, place)
                    self.throttler.behind(session.user_id, session.sid, place.room, other, self._clock())
                    break

    def update_metadata(self, sid: str, metadata: Mapping[str, object]) -> Mapping[str, object]:
        """Merge into the metadata of a connection (None removes a key) and return the whole.  Raises RequestError
        (`limit`) when that would have more than `MAX_METADATA` bytes, and PayloadError for what is not JSON; then
        nothing is merged."""
        session = self._by_sid[sid]
        merged = {key: value for key, value in {**session.metadata, **metadata}.items() if value is not None}
        size = len(strict_dumps(merged).encode())
        if size > MAX_METADATA:
            raise RequestError(ErrorCode.LIMIT, f"the metadata of a session may have {MAX_METADATA} bytes of JSON "
                               f"together, and would have {size}: remove keys with null")
        session.metadata, session.metadata_size = merged, size
        session.dirty = True
        return session.metadata

    # -- asking

    def session(self, sid: str) -> Session | None:
        """The live session behind a sid."""
        return self._by_sid.get(sid)

    def sessions(self) -> list[Session]:
        """All live sessions of this worker."""
        return list(self._by_sid.values())

    def users(self) -> list[str]:
        """All users who are connected to this worker."""
        return list(self._by_user)

    def user_sessions(self, user_id: str) -> list[Session]:
        """The live sessions of a user on this worker."""
        return list(self._by_user.get(user_id, {}).values())

    def get_connection(self, sid: str) -> Connection | None:
        """A snapshot of one connection."""
        session = self._by_sid.get(sid)
        return None if session is None else _snapshot(session)

    def get_user_connections(self, user_id: str) -> list[Connection]:
        """Snapshots of all connections of a user on this worker."""
        return [_snapshot(session) for session in self._by_user.get(user_id, {}).values()]

    def get_room_connections(self, room: str) -> list[Connection]:
        """Snapshots of all connections in a room on this worker."""
        held = self.registry.rooms.get(room)
        return [] if held is None else [_snapshot(session) for session in held.members]

    def get_connection_count(self) -> int:
        return len(self._by_sid)

    def get_user_count(self) -> int:
        return len(self._by_user)

    def touch(self, sid: str) -> None:
        """Any packet of a client is activity."""
        session = self._by_sid.get(sid)
        if session is not None:
            session.last_seen = self._clock()

    def is_connection_active(self, sid: str) -> bool:
        """Whether anything, a PONG included, came from the client within the last five minutes."""
        session = self._by_sid.get(sid)
        return session is not None and self._clock() - session.last_seen < self._active_within

    def cleanup_stale_connections(self) -> list[str]:
        """Close connections from which nothing came for ten minutes; returns their sids.  The heartbeat notices a
        dead client long before; this catches what it cannot see."""
        limit = self._clock() - self._stale_after
        stale = [session for session in self._by_sid.values() if session.last_seen < limit]
        for session in stale:
            session.peer.close(CloseCode.STALE, "nothing was heard from the client for too long")
        return [session.sid for session in stale]


def _snapshot(session: Session) -> Connection:
    return Connection(session.sid, session.id, session.user_id, tuple(session.subs), dict(session.metadata),
                      session.connected_at, session.last_seen, session.received, session.messages_sent())

