"""What one worker knows and can do for the server API: its rooms, connections and sessions, and throwing out.

Each verb takes and gives JSON, for `ClusterCalls`.  Listings come in the order of their key, after a cursor, at most
`limit`: the first `limit` of all workers' answers together are then complete.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from wsapp.auth import revocation
from wsapp.core.connections import ConnectionManager
from wsapp.core.events import KINDS, packet
from wsapp.core.registry import Room
from wsapp.core.session import Session
from wsapp.errors import BrokerUnavailable, CloseCode
from wsapp.transport.frames import Frame

log = logging.getLogger(__name__)

GOODBYE: Final = Frame(b"41")  # DISCONNECT of Socket.IO: its clients do not come back by themselves after it


def session_name(session_id: str) -> str:
    """A session as others may know it.  The session id itself is a secret: whoever has it can resume."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:24]


class Operations:
    """The verbs of one worker."""

    def __init__(self, connections: ConnectionManager, clock: Callable[[], float] = time.monotonic) -> None:
        self._connections, self._clock = connections, clock
        self.verbs: dict[str, Callable[[Any], Any]] = {
            "rooms": self.rooms, "room": self.room, "connections": self.list_connections,
            "sessions": self.sessions, "disconnect": self.disconnect, "entries": self.entries,
            "user": self.user_of}

    def rooms(self, asked: dict[str, Any]) -> list[list[object]]:
        """`{after, limit, kind}` to `[[room, connections, users]]` of rooms with a member."""
        found = sorted(name for name, room in self._connections.registry.rooms.items()
                       if room.members and name > asked["after"] and name.startswith(asked["kind"] or KINDS))
        return [[name, *_counts(self._connections.registry.rooms[name])] for name in found[:asked["limit"]]]

    def room(self, asked: dict[str, Any]) -> dict[str, int]:
        """`{room}` to `{user: connections}`."""
        room = self._connections.registry.rooms.get(asked["room"])
        return {} if room is None else dict(Counter(session.user_id for session in room.members))

    def list_connections(self, asked: dict[str, Any]) -> list[dict[str, object]]:
        """`{after, limit, user?, room?}` to the connections, by sid."""
        chosen = [session for session in self._connections.sessions()
                  if session.sid > asked["after"] and _fits(session, asked)]
        return [self._connection(session) for session in sorted(chosen, key=_sid)[:asked["limit"]]]

    def _connection(self, session: Session) -> dict[str, object]:
        now = self._clock()
        return {"sid": session.sid, "session": session_name(session.id), "userId": session.user_id,
                "profile": session.profile.name.lower(), "rooms": sorted(session.subs),
                "connectedFor": round(now - session.connected_at, 3), "silentFor": round(now - session.last_seen, 3),
                "received": session.received, "sent": session.messages_sent(), "backlog": session.peer.backlog()}

    def sessions(self, asked: dict[str, Any]) -> list[dict[str, object]]:
        """`{after, limit, user?, room?}` to the sessions, by their public name, with positions and metadata."""
        named = {session_name(session.id): session for session in self._connections.sessions()
                 if _fits(session, asked)}
        return [{"session": name, "sid": named[name].sid, "userId": named[name].user_id,
                 "metadata": dict(named[name].metadata),
                 "positions": {room: {"epoch": at.epoch, "seq": at.seq}
                               for room, at in named[name].positions().items()}}
                for name in sorted(name for name in named if name > asked["after"])[:asked["limit"]]]

    def disconnect(self, asked: dict[str, Any]) -> int:
        """`{user | session | sid, reason}`: throw out (close code 4502) and forget; how many there were."""
        thrown = [session for session in self._connections.sessions() if _is_meant(session, asked)]
        for session in thrown:
            self._throw_out(session, asked["reason"])
        return len(thrown)

    def entries(self, asked: dict[str, Any]) -> list[str]:
        """`{session}`, a public name, to what revokes it: the session id itself stays here."""
        return [revocation("session", session.id) for session in self._connections.sessions()
                if session_name(session.id) == asked["session"]]

    def user_of(self, asked: dict[str, Any]) -> str | None:
        """`{session}`, a public name, to its user."""
        return next((session.user_id for session in self._connections.sessions()
                     if session_name(session.id) == asked["session"]), None)

    def _throw_out(self, session: Session, reason: str) -> None:
        self._connections.registry.leave_all(session)  # a session without rooms is not saved when it ends
        try:
            self._connections.store.drop(session.id, session.owner)
        except BrokerUnavailable as error:
            log.warning("the session of %s lapses by itself: %s", session.sid, error)
        session.peer.push(Frame(packet("session-closed", {"code": int(CloseCode.KICKED), "reason": reason})))
        session.peer.push(GOODBYE)
        session.peer.close(CloseCode.KICKED, reason)


def _counts(room: Room) -> tuple[int, int]:
    return len(room.members), len({session.user_id for session in room.members})


def _sid(session: Session) -> str:
    return session.sid


def _fits(session: Session, asked: dict[str, Any]) -> bool:
    return asked.get("user") in (None, session.user_id) and (asked.get("room") is None or asked["room"] in session.subs)


def _is_meant(session: Session, asked: dict[str, Any]) -> bool:
    if asked.get("user") is not None:
        return bool(session.user_id == asked["user"])
    if asked.get("sid") is not None:
        return bool(session.sid == asked["sid"])
    return session_name(session.id) == asked.get("session")
