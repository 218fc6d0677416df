"""Sessions come, are kept and go: CONNECT with its resume, saving, disconnect, drain."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar

import gevent
from gevent.event import Event

from wsapp.core.connections import ConnectionManager
from wsapp.core.events import Position, Profile, packet
from wsapp.core.ports import SavedSession
from wsapp.core.session import Session
from wsapp.errors import BrokerUnavailable, CloseCode
from wsapp.runtime.delivery import Delivery
from wsapp.runtime.link import OUTAGE_WAIT_S, Links
from wsapp.runtime.recovery import Recovery, recover
from wsapp.schemas import load_positions
from wsapp.transport.connection import Connection
from wsapp.transport.frames import Frame

log = logging.getLogger(__name__)

SESSION_ID: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")
SAVE_BATCH: Final = 500  # sessions
SAVE_BYTES: Final = 1_000_000  # about
BARE_SESSION: Final = 300  # bytes of a session without rooms
ROOM_POSITION: Final = 40  # bytes beside the name of a room
SAVE_INTERVAL: Final = 2.0  # seconds until a newly confirmed position is saved at the latest
SLOT: Final = 0.005  # seconds between two clients' returns after a drain
SLOT_LOOK: Final = 0.25  # seconds between looks whether anybody is left to wait for
MAX_SPREAD: Final = 5.0  # seconds over which the returns are spread at most


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client asked for at CONNECT."""

    profile: Profile = Profile.PLAIN
    session_id: str | None = None
    positions: Mapping[str, Position] = field(default_factory=dict)


def read_hello(auth: Mapping[str, Any] | None) -> Hello:
    """Read the CONNECT payload: `{wsapp?: 1, sessionId? | pid?, positions?}`.

    Keys that are not ours belong to the host application.  A malformed session id is an unknown one.  Raises
    PayloadError for positions beside a session id that are none.
    """
    auth = auth or {}
    profile = Profile.SDK if auth.get("wsapp") == 1 else Profile.PLAIN
    asked = auth.get("sessionId", auth.get("pid"))
    session_id = asked if isinstance(asked, str) and SESSION_ID.fullmatch(asked) else None
    positions = load_positions(auth.get("positions")) if session_id else {}
    return Hello(profile, session_id, positions)


@dataclass(slots=True)
class Welcome:
    """The outcome of CONNECT: what `session` tells, what is still to be sent, and in which rooms it had asked for the
    presence of others."""

    session: Session
    told: dict[str, object]
    recovery: Recovery | None
    watching: frozenset[str] = frozenset()


T = TypeVar("T")
MayRead = Callable[[Session, str], bool]


def _everything(_session: Session, _room: str) -> bool:
    return True


class Lifecycle:
    """The sessions of one worker."""

    def __init__(self, connections: ConnectionManager, delivery: Delivery, links: Links) -> None:
        self.connections, self.delivery, self._links = connections, delivery, links
        self._save_now = Event()
        self._saved = Event()
        self._saving: set[Session] = set()  # clean, but their round trip has not ended

    # -- coming

    def welcome(self, sid: str, connection: Connection, auth: Mapping[str, Any] | None,
                user_id: str | None, may_read: MayRead = _everything) -> Welcome:
        """Register a connection and resume its session when it presents one that is kept, in the rooms that it
        `may_read` still.  That waits a moment when Redis is away."""
        hello, until = read_hello(auth), time.monotonic() + OUTAGE_WAIT_S
        saved, reason = self._take(hello, sid, user_id, connection, until)
        if saved is None:
            session = self.connections.handle_connection(sid, connection, user_id, profile=hello.profile)
            connection.viewer = session
            return Welcome(session, _told(session, False, 0, reason), None)
        session = self.connections.handle_connection(
            sid, connection, user_id or saved.user_id, session_id=saved.session_id, profile=hello.profile,
            metadata=saved.metadata)
        connection.viewer = session
        return self._resume(session, connection, hello, saved, may_read, until)

    def _take(self, hello: Hello, sid: str, user_id: str | None, connection: Connection,
              until: float) -> tuple[SavedSession | None, str | None]:
        asked = hello.session_id
        if asked is None:
            return None, None
        try:
            saved = self._ask(lambda: self.connections.handle_reconnection(asked, sid, user_id or ""),
                              connection, until)
        except BrokerUnavailable:
            return None, "unavailable"
        except PermissionError:
            return None, "other_user"
        if saved is None:
            return None, "expired"
        return saved, None

    def _ask(self, question: Callable[[], T], connection: Connection, until: float) -> T:
        """The answer; where Redis is away it is waited for, as long as the client is there.  Raises
        BrokerUnavailable."""
        while True:
            try:
                return question()
            except BrokerUnavailable as error:
                if connection.closed or not self._links.wait_after(error, until):
                    raise

    def _resume(self, session: Session, connection: Connection, hello: Hello, saved: SavedSession,
                may_read: MayRead, until: float) -> Welcome:
        wanted = {room: _newer(hello.positions.get(room), position) for room, position in saved.positions.items()
                  if may_read(session, room)}
        try:
            recovery = self._ask(lambda: recover(session, wanted, self.connections.registry, self.delivery),
                                 connection, until)
        except BrokerUnavailable:
            if self.connections.session(session.sid) is not session:  # it went meanwhile, with all that is kept of it
                raise
            self.connections.rename(session)
            return Welcome(session, _told(session, False, 0, "unavailable"), None)
        recovery.pace(self.delivery.pace)
        if recovery.recovered:
            self.delivery.metrics.resumed += 1
        else:
            self.delivery.metrics.recovery_refused += 1
        if not recovery.recovered or saved.host_state:  # with its old id the client would say `socket.recovered`
            self.connections.rename(session)
        session.dirty = True
        told: dict[str, object] = {"sessionId": session.id, **recovery.outcome()}
        if saved.host_state:
            told["notRestored"] = list(saved.host_state)
        told["rooms"] = {room: {"epoch": at.epoch, "seq": at.seq} for room, at in recovery.positions.items()}
        return Welcome(session, told, recovery, frozenset(saved.watching) & session.subs.keys())

    # -- keeping

    @staticmethod
    def weight(session: Session) -> int:
        """About how many bytes a session has when it is saved."""
        return BARE_SESSION + session.metadata_size + sum(len(room) + ROOM_POSITION for room in session.subs)

    def save(self, session: Session) -> None:
        """Write a session through; sessions that change at the same moment share one round trip.

        Raises BrokerUnavailable when it is not saved within a second.
        """
        session.dirty = True
        self._save_now.set()
        deadline = time.monotonic() + 1.0
        while session.dirty or session in self._saving:
            if not self._saved.wait(max(0.0, deadline - time.monotonic())):
                raise BrokerUnavailable("the session could not be saved: Redis did not answer; try again")

    def save_marked(self) -> None:
        """A session has changed in what a successor may be promised: it is saved without waiting for others."""
        self._save_now.set()

    def save_soon(self) -> None:
        """Redis is back: what changed meanwhile is saved before anything else can happen to this worker."""
        self._save_now.set()

    def save_forever(self) -> None:
        """Save what changed, at once when asked, else every few seconds; one greenlet runs this."""
        while True:
            self._save_now.wait(SAVE_INTERVAL)
            self._save_now.clear()
            self.save_dirty()
            done, self._saved = self._saved, Event()
            done.set()

    def save_dirty(self) -> None:
        """Save every session that changed.  One that another connection has taken over is closed."""
        self._save_unsaved()
        dirty = [session for session in self.connections.sessions() if session.dirty]
        for chunk in _chunks(dirty):
            for session in chunk:
                session.dirty = False
            self._saving.update(chunk)
            try:
                kept = self.connections.store.save([self.connections.saved(session) for session in chunk])
            except BrokerUnavailable as error:
                for session in chunk:
                    session.dirty = True
                log.warning("sessions wait to be saved: %s", error)
                return
            finally:
                self._saving.difference_update(chunk)
            for session, owned in zip(chunk, kept, strict=True):
                if not owned:
                    session.peer.close(CloseCode.REPLACED, "the session was taken over by a newer connection")

    def _save_unsaved(self) -> None:
        """Sessions that ended while Redis was away; the store refuses those that somebody has taken up meanwhile."""
        unsaved = self.connections.unsaved
        while unsaved:
            some = list(islice(unsaved.values(), SAVE_BATCH))
            try:
                self.connections.store.save(some)
            except BrokerUnavailable as error:
                log.warning("%d sessions that ended wait to be saved: %s", len(unsaved), error)
                return
            for saved in some:
                unsaved.pop(saved.session_id, None)

    # -- going

    def goodbye(self, sid: str) -> Session | None:
        """A connection has ended: its session is saved for ten minutes."""
        session = self.connections.session(sid)
        try:
            return self.connections.handle_disconnection(sid)
        except BrokerUnavailable as error:
            log.warning("the session of %s is saved when Redis is back: %s", sid, error)
            return session

    def fenced(self, sid: str) -> None:
        """Another worker has taken the session of this connection over."""
        session = self.connections.session(sid)
        if session is not None:
            session.peer.close(CloseCode.REPLACED, "the session was taken over by a newer connection")

    def drain(self, timeout: float, over: float | None = None) -> None:
        """Tell every client when to come back, save, and close each at its slot, what waits in its lanes sent before
        (G4, 1012 "service restart").  The slots are spread over `over` seconds; by default 5 ms a client, 5 s and
        half of `timeout` at most.  Returns within `timeout` seconds."""
        sessions = self.connections.sessions()
        spread = min(MAX_SPREAD, timeout / 2, SLOT * len(sessions)) if over is None else over
        slots = [spread * number / max(1, len(sessions)) for number in range(len(sessions))]
        random.shuffle(slots)
        deadline = time.monotonic() + timeout
        self.save_dirty()  # before anybody goes: it may take a moment, and slots count from when they are told
        started = time.monotonic()
        for session, slot in zip(sessions, slots, strict=True):
            _say_goodbye(session, slot)
        for slot, session in sorted(zip(slots, sessions, strict=True), key=_by_slot):
            if not self._wait(started + slot):
                return
            self._close(session)
        told = set(sessions)
        while self.connections.get_connection_count() and time.monotonic() < deadline:
            for late in set(self.connections.sessions()) - told:  # their handshakes were under way
                told.add(late)
                _say_goodbye(late, 0.0)
                self._close(late)
            gevent.sleep(0.02)

    def _wait(self, until: float) -> bool:
        """Wait for a moment of the monotonic clock; False as soon as nobody is left to wait for."""
        while (left := until - time.monotonic()) > 0:
            if not self.connections.get_connection_count():
                return False
            gevent.sleep(min(left, SLOT_LOOK))
        return True

    def _close(self, session: Session) -> None:
        try:
            self.connections.throttler.release(session.user_id, session.sid)
        except Exception:
            log.exception("what waited for %s could not be sent; it is replayed when the client is back", session.sid)
        session.peer.close(CloseCode.SERVICE_RESTART, "the server restarts: come back")


def _chunks(sessions: Sequence[Session]) -> Iterator[list[Session]]:
    """What is saved in one round trip: as much as Redis takes within its time limit."""
    chunk, size = list[Session](), 0
    for session in sessions:
        weight = Lifecycle.weight(session)
        if chunk and (len(chunk) >= SAVE_BATCH or size + weight > SAVE_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(session)
        size += weight
    if chunk:
        yield chunk


def _say_goodbye(session: Session, slot: float) -> None:
    session.peer.push(Frame(packet("server-shutdown", {"retryAfterMs": round(slot * 1000)})))


def _by_slot(pair: tuple[float, Session]) -> float:
    return pair[0]


def _newer(own: Position | None, saved: Position) -> Position:
    """Where the client says that it stands, unless it knows no more than that it began before everything."""
    return own if own is not None and own.epoch else saved


def _told(session: Session, recovered: bool, missed: int, reason: str | None) -> dict[str, object]:
    told: dict[str, object] = {"sessionId": session.id, "recovered": recovered, "missed": missed}
    if reason is not None:
        told["reason"] = reason
    return told
