"""Who comes in, what they may do, and for how long: tokens, the host's own hooks, revocations, denials.

Denials and everything else that an auditor asks for are lines of the logger `wsapp.audit`, without secrets.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qs

from wsapp.auth import NOBODY, Authenticator, Identity, TokenRefused, bearer, revocation
from wsapp.core.connections import ConnectionManager
from wsapp.core.events import packet
from wsapp.core.limited_log import LimitedLog
from wsapp.core.ports import Revocations
from wsapp.core.session import Peer, Session
from wsapp.errors import CloseCode, ErrorCode, RequestError
from wsapp.metrics import Metrics
from wsapp.runtime.known_revocations import KnownRevocations
from wsapp.runtime.namespace_joins import NamespaceJoins
from wsapp.settings import Settings, auth_mode
from wsapp.transport.frames import Frame
from wsapp.transport.gate import client_address

audit = logging.getLogger("wsapp.audit")

TICK: Final = 0.5  # seconds between looks at expiring tokens
IDENTITY: Final = "wsapp.identity"  # in the environ of a handshake whose token was judged before it

Identify = Callable[[Any, dict[str, Any]], "Identity | str | None"]
Authorizer = Callable[[Session, str, str], bool]


@dataclass(slots=True)
class HostHooks:
    """What the host application decides itself: `identify(auth, environ)` names the user (or gives an Identity) instead
    of a token, `authorizer(session, action, room)` says what is allowed instead of the token's patterns."""

    identify: Identify | None = None
    authorizer: Authorizer | None = None


@dataclass(slots=True)
class Held:
    """Somebody who is connected here, with the identity that let him in: a session, or a join of a namespace of the
    host application."""

    peer: Peer
    sid: str
    user_id: str | None
    identity: Identity
    entries: Mapping[str, str]
    session: Session | None = None
    warned: bool = False


class Admission:
    """One worker's.  `clock` gives seconds since the epoch."""

    def __init__(self, settings: Settings, authenticator: Authenticator | None, revocations: Revocations,
                 connections: ConnectionManager, metrics: Metrics, host: HostHooks | None = None,
                 clock: Callable[[], float] = time.time) -> None:
        self._settings, self._authenticator, self._revocations = settings, authenticator, revocations
        self._connections, self._metrics, self._clock = connections, metrics, clock
        self._host = host or HostHooks()
        self._held: dict[str, Held] = {}
        self._ending: dict[str, Held] = {}  # those whose identity expires
        self._joins = NamespaceJoins()
        self._lines = LimitedLog(audit)
        self._known = KnownRevocations(revocations, settings.jwt_leeway, clock)

    # -- who

    def judge_handshake(self, environ: dict[str, Any]) -> None:
        """Before the upgrade: a token in the header or the query, where the settings allow one there.  Raises
        TokenRefused."""
        if self._authenticator is None or self._host.identify is not None:
            return
        token = _offered(environ, self._settings.token_sources)
        if token is None and "auth" in self._settings.token_sources:
            return
        try:
            environ[IDENTITY] = self._judged(token)
        except TokenRefused as error:
            self._refused(error, self.address(environ))
            raise

    def of_request(self, environ: dict[str, Any]) -> Identity:
        """Who asks over plain HTTP: a bearer token, or one in the query where the settings allow it there.  Raises
        TokenRefused; NOBODY where no tokens are asked for."""
        if self._host.identify is not None:
            return self._hooked({"token": bearer(environ.get("HTTP_AUTHORIZATION"))}, environ)
        if self._authenticator is None:
            return NOBODY
        token = bearer(environ.get("HTTP_AUTHORIZATION"))
        try:
            return self._judged(_offered(environ, self._settings.token_sources) if token is None else token)
        except TokenRefused as error:
            self._refused(error, self.address(environ))
            raise

    def identify(self, auth: Any, environ: dict[str, Any]) -> Identity:
        """Who connects.  Raises TokenRefused, RequestError (`limit`), and what the host's hook raises."""
        try:
            identity = self._identity(auth, environ, _asked_session(auth))
        except TokenRefused as error:
            self._refused(error, self.address(environ))
            raise
        self._require_place(identity, environ)
        return identity

    def _identity(self, auth: Any, environ: dict[str, Any], session: Collection[str]) -> Identity:
        """The identity, when neither it nor the `session` to resume is revoked: one look for both."""
        if self._host.identify is not None:
            return self._hooked(auth, environ, session)
        if self._authenticator is None:
            if auth_mode(self._settings) == "host":
                raise TokenRefused(ErrorCode.UNAUTHORIZED, "nobody is let in: the application has no identify hook")
            self._known.refuse(session, None)
            return NOBODY
        given = auth.get("token") if isinstance(auth, dict) and "auth" in self._settings.token_sources else None
        before = environ.get(IDENTITY)
        if given is None and isinstance(before, Identity):
            if before.expires <= self._clock():
                raise TokenRefused(ErrorCode.TOKEN_EXPIRED, "the token has expired")
            self._known.refuse([*before.revocable().values(), *session], before.issued)
            return before
        return self._judged(given, session)

    def _hooked(self, auth: Any, environ: dict[str, Any], session: Collection[str] = ()) -> Identity:
        assert self._host.identify is not None
        found = self._host.identify(auth, environ)
        identity = found if isinstance(found, Identity) else Identity(found)
        self._known.refuse([*identity.revocable().values(), *session], identity.issued)
        return identity

    def _judged(self, token: object, session: Collection[str] = ()) -> Identity:
        assert self._authenticator is not None
        identity = self._authenticator.judge(token)
        self._known.refuse([*identity.revocable().values(), *session], identity.issued)
        return identity

    def confirm(self, identity: Identity, environ: Mapping[str, Any]) -> None:
        """One that was let in is connected, perhaps after a wait for Redis: were others of the same user quicker?
        Raises RequestError."""
        self._require_place(identity, environ, counted=1)

    def _require_place(self, identity: Identity, environ: Mapping[str, Any], counted: int = 0) -> None:
        limit = self._settings.max_connections_per_user
        if identity.user_id and limit and self._count_of(identity.user_id) >= limit + counted:
            self._metrics.count("usersRefused")
            self._lines.warning(identity.user_id, "refused: limit of connections of user=%r from %s", identity.user_id,
                                self.address(environ))
            raise RequestError(ErrorCode.LIMIT, f"the user has {limit} connections (WSAPP_MAX_CONNECTIONS_PER_USER)")

    def _count_of(self, user_id: str) -> int:
        """The user's connections, also those that have only joined namespaces of the host application."""
        sessions = self._connections.user_sessions(user_id)
        return len(sessions) + self._joins.beside(user_id, (session.peer.sid for session in sessions))

    def _refused(self, error: TokenRefused, who: str) -> None:
        self._metrics.count("tokensRefused")
        self._lines.warning(who.partition(" sid=")[0], "refused: %s (%s) from %s", error.code, error, who)

    def address(self, environ: Mapping[str, Any]) -> str:
        """Where a request comes from, quoted for a log."""
        return repr(client_address(dict(environ), self._settings.trusted_proxies))

    # -- coming and going

    def admitted(self, session: Session, identity: Identity) -> None:
        """A session is connected: from now on its token's end and revocations concern it."""
        if identity.rate is not None:
            self._connections.throttler.user(session.user_id, identity.rate)
        self._hold(Held(session.peer, session.sid, session.user_id, identity, identity.revocable(), session))

    def admit_elsewhere(self, peer: Peer, sid: str, viewer: object, auth: Any, environ: dict[str, Any]) -> None:
        """A connection joins a namespace of the host application as `sid`: by a token of its own, or as the session
        that it has (its `viewer`).  Raises as `identify` does."""
        own = isinstance(auth, dict) and auth.get("token") is not None
        held = self._held.get(viewer.sid) if isinstance(viewer, Session) and not own else None
        identity = self.identify(auth, environ) if held is None else held.identity
        self._hold(Held(peer, sid, identity.user_id, identity, identity.revocable()))
        self._joins.add(sid, peer.sid, identity.user_id)

    def connection_closed(self, sid: str) -> None:
        """A connection has ended, and with it what it had joined; idempotent.  `sid` is Engine.IO's."""
        for joined in self._joins.of(sid):
            self.left(joined)

    def _hold(self, held: Held) -> None:
        self._held[held.sid] = held
        self._ending.pop(held.sid, None)
        if held.identity.expires < math.inf:
            self._ending[held.sid] = held
        if any(self._revokes(entry, at, held) for entry, at in self._known.remembered().items()):
            self._end(held, CloseCode.TOKEN_REVOKED, "token_revoked")

    def left(self, sid: str) -> None:
        """A session, or a join of a namespace, is gone; idempotent."""
        self._joins.leave(sid)
        self._held.pop(sid, None)
        self._ending.pop(sid, None)

    def rate_of(self, session: Session) -> float:
        """The most events per second that a client may ask for."""
        held = self._held.get(session.sid)
        granted = held.identity.rate if held is not None else None
        return self._settings.max_events_per_sec if granted is None else granted

    def tick(self) -> None:
        """Warn of and close what expires; ask again about what could not be asked.  Every `TICK` seconds."""
        now, warning = self._clock(), self._settings.token_warning
        for held in list(self._ending.values()):
            left = held.identity.expires - now
            if left <= 0:
                self._metrics.count("tokensExpired")
                self._end(held, CloseCode.TOKEN_EXPIRED, "token_expired")
            elif left <= warning and not held.warned and held.session is not None:
                held.warned = True
                held.peer.push(Frame(packet("token-expiring", {"expiresInMs": round(left * 1000)})))
        if self._known.unchecked:
            self._recheck()

    def _end(self, held: Held, code: CloseCode, reason: str) -> None:
        """Tell why in an event too: a polling client sees no close code."""
        self.left(held.sid)
        audit.warning("closed: %s user=%r sid=%s", reason, held.user_id, held.sid)
        if held.session is not None:
            held.peer.push(Frame(packet("session-closed", {"code": int(code), "reason": reason})))
        held.peer.close(code, reason)

    # -- what they may

    def allows(self, session: Session, action: str, room: str) -> bool:
        """Whether a session may `read`, `publish` or see `presence` in a room: the host's authorizer decides, else the
        token."""
        held = self._held.get(session.sid)
        if held is None:
            return self._authenticator is None and self._host.authorizer is None
        return self._allows(session, held.identity, action, room)

    def _allows(self, session: Session, identity: Identity, action: str, room: str) -> bool:
        if self._host.authorizer is not None:
            return bool(self._host.authorizer(session, action, room))
        return identity.allows(action, room)

    def require(self, session: Session, action: str, room: str) -> None:
        """Raises RequestError (`forbidden`), the same whether or not the room exists, with one line in the audit."""
        if not self.allows(session, action, room):
            raise self.denied(session, action, room)

    def denied(self, session: Session, action: str, room: str, why: str = "") -> RequestError:
        """Count and note down that an action was refused, `why` if not by token or authorizer; the error to raise."""
        why = why or ("by the authorizer" if self._host.authorizer is not None else "not granted")
        self._metrics.count("forbidden")
        self._lines.warning(session.user_id, "denied: user=%r sid=%s action=%s room=%r: %s", session.user_id,
                            session.sid, action, room, why)
        return RequestError(ErrorCode.FORBIDDEN, f"not allowed in {room}")

    def may_read(self, identity: Identity) -> Callable[[Session, str], bool]:
        """For a session that is being resumed: judges each of its rooms anew, and tells it of the lost ones."""
        def judge(session: Session, room: str) -> bool:
            if self._allows(session, identity, "read", room):
                return True
            self._lost(session, room)
            return False

        return judge

    def _lost(self, session: Session, room: str) -> None:
        self.denied(session, "read", room)
        session.peer.push(Frame(packet("unsubscribed", {"room": room, "reason": str(ErrorCode.FORBIDDEN)})))

    def refresh(self, session: Session, token: str) -> dict[str, object]:
        """Continue with a newer token of the same user: all that the last one granted ends, rooms, presence and rate.
        The answer: `{expiresInMs, lost, presenceLost?}`.  Raises TokenRefused, RequestError."""
        if self._authenticator is None or self._host.identify is not None:
            raise RequestError(ErrorCode.BAD_REQUEST, "this server was not given a token to refresh")
        try:
            identity = self._judged(token)
        except TokenRefused as error:
            self._refused(error, f"user={session.user_id!r} sid={session.sid}")
            raise
        if identity.user_id != session.user_id:
            self._lines.warning(session.user_id, "denied: user=%r sid=%s refreshed with a token of %r", session.user_id,
                                session.sid, identity.user_id)
            raise RequestError(ErrorCode.FORBIDDEN, "the token is not of the user who connected")
        chosen, granted = session.queue.rate, self.rate_of(session)
        for name in (session.sid, *self._joins.of(session.peer.sid)):
            if name in self._held and self._held[name].user_id == session.user_id:
                self._hold(replace(self._held[name], identity=identity, entries=identity.revocable(), warned=False))
        rate = self.rate_of(session)
        self._connections.throttler.user(session.user_id, rate if chosen == granted else min(chosen, rate))
        lost = [room for room in list(session.subs) if not self.allows(session, "read", room)]
        for room in lost:
            self._connections.leave_room(session.sid, room)
            self._lost(session, room)
        unseen = sorted(room for room in session.watching & session.subs.keys()
                        if not self.allows(session, "presence", room))
        session.watching -= frozenset(unseen)
        session.dirty = session.dirty or bool(lost or unseen)
        told: dict[str, object] = {"expiresInMs": round((identity.expires - self._clock()) * 1000), "lost": lost}
        return {**told, "presenceLost": unseen} if unseen else told

    # -- revocation

    def revoke(self, *, jti: str | None = None, user: str | None = None, session: str | None = None,
               until: float | None = None, by: str = "the application") -> None:
        """Refuse a token id, a user's tokens issued so far, or a session (of the token's `sid` or of wsapp), and close
        what is connected with it on every worker.  `until`: seconds since the epoch; WSAPP_REVOCATION_TTL when None.
        `by` is for the audit.

        Raises ValueError unless exactly one is named, and BrokerUnavailable when only this worker knows of it.
        """
        named = [(kind, name) for kind, name in (("jti", jti), ("user", user), ("session", session)) if name]
        if len(named) != 1:
            raise ValueError("revoke one of jti, user and session")
        audit.warning("revoked: %s %s by %s", named[0][0],
                      revocation(*named[0]) if session else repr(named[0][1]), by)
        self.revoke_entry(revocation(*named[0]), until)

    def revoke_entry(self, entry: str, until: float | None = None) -> None:
        """As `revoke`, of what `wsapp.auth.revocation` made."""
        now = self._clock()
        until = now + self._settings.revocation_ttl if until is None else until
        self.revoked(entry, now, until)
        self._revocations.revoke(entry, now, until)

    def on_control(self, argument: str) -> None:
        """`<entry> <at> <until>` of another worker."""
        entry, at, until = argument.split(" ")
        self.revoked(entry, float(at), float(until))

    def revoked(self, entry: str, at: float, until: float) -> None:
        """Close what is connected here under a revoked name, and remember it."""
        self._known.remember(entry, at, until)
        for held in list(self._held.values()):
            if self._revokes(entry, at, held):
                self._metrics.count("tokensRevoked")
                self._end(held, CloseCode.TOKEN_REVOKED, "token_revoked")

    def _revokes(self, entry: str, at: float, held: Held) -> bool:
        kind = entry.partition(":")[0]
        if kind == "session" and held.session is not None and entry == revocation(kind, held.session.id):
            return True
        return held.entries.get(kind) == entry and self._known.covers(kind, at, held.identity.issued)

    def on_gap(self) -> None:
        """Control messages may have been lost: ask about everybody."""
        self._known.unchecked = True

    def _recheck(self) -> None:
        entries = [entry for held in self._held.values() for entry in held.entries.values()]
        entries += [revocation("session", held.session.id) for held in self._held.values() if held.session is not None]
        for entry, at, until in self._known.look_again(entries):
            self.revoked(entry, at, until)


def _offered(environ: Mapping[str, Any], sources: Collection[str]) -> str | None:
    """The token in the header or the query, where one may stand there."""
    token = bearer(environ.get("HTTP_AUTHORIZATION")) if "header" in sources else None
    if token is None and "query" in sources:
        token = (parse_qs(environ.get("QUERY_STRING", "")).get("token") or [None])[0]
    return token


def _asked_session(auth: Any) -> tuple[str, ...]:
    asked = auth.get("sessionId", auth.get("pid")) if isinstance(auth, dict) else None
    return (revocation("session", asked),) if isinstance(asked, str) else ()
