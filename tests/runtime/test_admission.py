"""Admission over the memory twins, with a clock of its own."""

from __future__ import annotations

import logging
from typing import Any

import jwt
import pytest

from tests.runtime.world import NUMBERS, RecordingPeer, World, peer
from wsapp.auth import NOBODY, Authenticator, Identity, TokenRefused
from wsapp.core.session import Session
from wsapp.errors import BrokerUnavailable, ErrorCode, RequestError
from wsapp.metrics import Metrics
from wsapp.runtime.admission import IDENTITY, Admission, HostHooks
from wsapp.settings import Settings

SECRET = "a secret of the tests, long enough for HS256"


class Place:
    """One worker's admission; `now` is what time it is."""

    def __init__(self, **settings: Any) -> None:
        self.world, self.now, self.away = World(), 1_000_000.0, False
        self.world.backend.revocations._clock = lambda: self.now  # type: ignore[attr-defined]
        self.settings = Settings(**{"jwt_secret": SECRET, "jwt_leeway": 0.0, **settings})
        self.host, self.metrics = HostHooks(), Metrics()
        self.asked = self.world.backend.revocations.revoked
        self.world.backend.revocations.revoked = self._revoked  # type: ignore[method-assign]
        self.admission = Admission(
            self.settings, Authenticator(self.settings, clock=lambda: self.now) if self.settings.jwt_secret else None,
            self.world.backend.revocations, self.world.connections, self.metrics, self.host, lambda: self.now)

    def _revoked(self, entries: Any) -> Any:
        if self.away:
            raise BrokerUnavailable("away")
        return self.asked(entries)

    def token(self, sub: str = "ann", lasts: float = 60.0, **claims: Any) -> str:
        given = {"sub": sub, "exp": self.now + lasts, "iat": self.now, "rooms": ["agent:*"], **claims}
        return jwt.encode(given, SECRET)

    def come(self, sub: str = "ann", lasts: float = 60.0, **claims: Any) -> Session:
        identity = self.admission.identify({"token": self.token(sub, lasts, **claims)}, {})
        session = self.world.client(user=identity.user_id)
        self.admission.admitted(session, identity)
        return session

    def refused(self, auth: Any, environ: dict[str, Any] | None = None) -> ErrorCode:
        with pytest.raises(RequestError) as caught:
            self.admission.identify(auth, environ or {})
        return caught.value.code


@pytest.fixture
def place() -> Place:
    return Place()


def closed(session: Session) -> list[int]:
    return [code for code, _reason in peer(session).closed]


def test_it_warns_once_and_then_closes(place: Place) -> None:
    session = place.come(lasts=60)
    place.admission.tick()
    assert peer(session).of("token-expiring") == []
    place.now += 40
    place.admission.tick()
    place.admission.tick()
    assert peer(session).of("token-expiring") == [{"expiresInMs": 20_000}]
    place.now += 20
    place.admission.tick()
    assert peer(session).of("session-closed") == [{"code": 4500, "reason": "token_expired"}]
    assert closed(session) == [4500]


def test_a_refresh_moves_the_end_and_warns_again(place: Place) -> None:
    session = place.come(lasts=20)
    place.admission.tick()
    assert place.admission.refresh(session, place.token(lasts=100)) == {"expiresInMs": 100_000, "lost": []}
    place.now += 80
    place.admission.tick()
    assert [told["expiresInMs"] for told in peer(session).of("token-expiring")] == [20_000, 20_000]
    assert closed(session) == []


def test_a_refresh_of_another_user_changes_nothing(place: Place) -> None:
    session = place.come(lasts=20)
    with pytest.raises(RequestError) as caught:
        place.admission.refresh(session, place.token("bob"))
    assert caught.value.code is ErrorCode.FORBIDDEN
    place.now += 20
    place.admission.tick()
    assert closed(session) == [4500]


def test_rooms_that_a_refresh_takes_away(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    session = place.come()
    place.world.join(session, {"agent:a": None, "agent:b": None}).release()
    with caplog.at_level(logging.WARNING, "wsapp.audit"):
        told = place.admission.refresh(session, place.token(rooms=["agent:a"]))
    assert told["lost"] == ["agent:b"]
    assert list(session.subs) == ["agent:a"]
    assert peer(session).of("unsubscribed") == [{"room": "agent:b", "reason": "forbidden"}]
    assert [record.getMessage() for record in caplog.records] == [
        f"denied: user='ann' sid={session.sid} action=read room='agent:b': not granted"]


def test_presence_that_a_refresh_takes_away(place: Place) -> None:
    session = place.come(rooms={"agent:*": ["read", "presence"]})
    place.world.join(session, {"agent:a": None, "agent:b": None}).release()
    session.watching = frozenset({"agent:a", "agent:b"})
    told = place.admission.refresh(session, place.token(rooms={"agent:a": ["read", "presence"], "agent:b": ["read"]}))
    assert (told["lost"], told["presenceLost"]) == ([], ["agent:b"])
    assert session.watching == {"agent:a"}


@pytest.mark.parametrize(("first", "chosen", "then", "rate"), [
    (50.0, 50.0, None, 10.0), (50.0, 50.0, 20.0, 20.0), (50.0, 2.0, None, 2.0), (50.0, 30.0, 20.0, 20.0),
    (None, 10.0, 50.0, 50.0), (None, 2.0, 50.0, 2.0)])
def test_the_rate_of_a_token_ends_with_it(place: Place, first: float | None, chosen: float, then: float | None,
                                          rate: float) -> None:
    session = place.come(rate=first)
    place.world.throttler.user("ann", chosen)
    place.admission.refresh(session, place.token(rate=then))
    assert session.queue.rate == rate


def test_a_token_that_was_issued_by_a_clock_ahead_is_revoked_too() -> None:
    """It was issued before the revocation, though its iat says otherwise."""
    place = Place(jwt_leeway=5.0)
    session = place.come(iat=place.now + 4)
    old = {"token": place.token(iat=place.now + 4, lasts=3600)}
    place.admission.revoke(user="ann")
    assert closed(session) == [4501]
    place.now += 60
    assert place.refused(old) is ErrorCode.TOKEN_REVOKED
    assert place.admission.identify({"token": place.token()}, {}).user_id == "ann"


def joined(place: Place, user: str | None, viewer: object = None, **claims: Any) -> RecordingPeer:
    """A connection that has joined a namespace of the host application."""
    number = next(NUMBERS)
    end, auth = RecordingPeer(f"c{number}"), {"token": place.token(user, **claims)} if user else {}
    place.admission.admit_elsewhere(end, f"n{number}", viewer, auth, {})
    return end


def test_a_namespace_needs_a_token_or_a_session(place: Place) -> None:
    for auth in ({}, {"token": "x"}, None):
        with pytest.raises(TokenRefused):
            place.admission.admit_elsewhere(RecordingPeer("c"), "n", None, auth, {})
    session = place.come()
    joined(place, None, session)
    place.admission.left(session.sid)
    with pytest.raises(TokenRefused):
        joined(place, None, session)


def test_what_ends_a_session_ends_a_join_of_a_namespace(place: Place) -> None:
    alone, with_session, other = joined(place, "ann"), joined(place, None, place.come("ann")), joined(place, "bob")
    brief = joined(place, "eve", lasts=10)
    place.admission.revoke(user="ann")
    place.now += 10
    place.admission.tick()
    assert [[code for code, _ in end.closed] for end in (alone, with_session, other, brief)] == [
        [4501], [4501], [], [4500]]


def test_a_refresh_is_for_the_namespaces_of_the_connection_too(place: Place) -> None:
    session = place.come(lasts=20)
    place.admission.admit_elsewhere(session.peer, "n1", session, None, {})
    place.admission.refresh(session, place.token(lasts=100))
    place.now += 50
    place.admission.tick()
    assert closed(session) == []
    place.now += 50
    place.admission.tick()
    assert set(closed(session)) == {4500}


def test_connections_that_are_in_namespaces_only_count_for_their_user() -> None:
    place = Place(max_connections_per_user=2)
    session = place.come()
    place.admission.admit_elsewhere(session.peer, "n1", session, None, {})  # no other connection
    end = joined(place, "ann")
    assert place.refused({"token": place.token()}) is ErrorCode.LIMIT
    place.admission.connection_closed(end.sid)
    joined(place, "ann")


def test_patterns_or_the_hosts_authorizer(place: Place) -> None:
    session = place.come(rooms={"agent:a": ["read"]})
    assert place.admission.allows(session, "read", "agent:a")
    assert not place.admission.allows(session, "publish", "agent:a")
    place.host.authorizer = lambda _session, action, room: (action, room) == ("publish", "task:1")
    assert not place.admission.allows(session, "read", "agent:a")
    place.admission.require(session, "publish", "task:1")
    with pytest.raises(RequestError, match="not allowed in agent:a"):
        place.admission.require(session, "read", "agent:a")
    assert place.metrics.facts()["forbidden"] == 1


def test_without_tokens_everybody_may_everything() -> None:
    place = Place(jwt_secret=None)
    assert place.admission.identify(None, {}) is NOBODY
    session = place.world.client()
    assert place.admission.allows(session, "read", "agent:a")
    with pytest.raises(RequestError):
        place.admission.refresh(session, "x")


def test_host_mode_without_a_hook_lets_nobody_in() -> None:
    place = Place(jwt_secret=None, auth="host")
    assert place.refused({"token": "x"}) is ErrorCode.UNAUTHORIZED
    place.host.identify = lambda auth, _environ: str(auth["name"])
    assert place.admission.identify({"name": "ann"}, {}) == Identity("ann")


def test_what_was_judged_before_the_upgrade_is_judged_again_at_connect() -> None:
    place = Place(token_sources=("header",))
    environ: dict[str, Any] = {"HTTP_AUTHORIZATION": f"bearer {place.token(jti='t', lasts=60)}"}
    place.admission.judge_handshake(environ)
    assert place.admission.identify(None, environ).user_id == "ann"
    assert place.admission.identify({"token": place.token("bob")}, environ).user_id == "ann", "auth is no source"
    place.admission.revoke(jti="t")
    assert place.refused(None, environ) is ErrorCode.TOKEN_REVOKED
    place.now += 60
    assert place.refused(None, environ) is ErrorCode.TOKEN_EXPIRED
    with pytest.raises(TokenRefused):
        place.admission.judge_handshake({"HTTP_COOKIE": f"token={place.token()}"})


def test_sources_that_are_not_allowed_are_not_read(place: Place) -> None:
    environ: dict[str, Any] = {"HTTP_AUTHORIZATION": "Bearer garbage", "QUERY_STRING": "token=garbage"}
    place.admission.judge_handshake(environ)
    assert IDENTITY not in environ
    assert place.refused({}, environ) is ErrorCode.TOKEN_MISSING


@pytest.mark.parametrize(("named", "claims"), [
    ({"jti": "t1"}, {"jti": "t1"}), ({"user": "ann"}, {}), ({"session": "login"}, {"sid": "login"})])
def test_revoked(place: Place, named: dict[str, str], claims: dict[str, str]) -> None:
    session, other = place.come(**claims), place.come("bob", jti="t2", sid="else")
    auth = {"token": place.token(**claims)}
    place.admission.revoke(**named)
    assert closed(session) == [4501]
    assert closed(other) == []
    assert place.refused(auth) is ErrorCode.TOKEN_REVOKED


def test_a_revoked_wsapp_session(place: Place) -> None:
    session = place.come()
    place.admission.revoke(session=session.id)
    assert closed(session) == [4501]
    assert place.refused({"token": place.token(), "sessionId": session.id}) is ErrorCode.TOKEN_REVOKED
    assert place.admission.identify({"token": place.token()}, {}).user_id == "ann"


@pytest.mark.parametrize("revoked", [{}, {"session": "s" * 20}, {"jti": "t"}])
def test_token_and_session_are_looked_up_together(place: Place, revoked: dict[str, str]) -> None:
    if revoked:
        place.admission.revoke(**revoked)
    looks: list[int] = []
    inner = place.asked
    place.asked = lambda entries: (looks.append(len(entries)), inner(entries))[1]
    auth = {"token": place.token(jti="t", sid="login"), "sessionId": "s" * 20}
    if revoked:
        assert place.refused(auth) is ErrorCode.TOKEN_REVOKED
    else:
        assert place.admission.identify(auth, {}).user_id == "ann"
    assert looks == [4]


def test_one_name_at_a_time(place: Place) -> None:
    for named in ({}, {"jti": "a", "user": "b"}, {"jti": ""}):
        with pytest.raises(ValueError, match="one of"):
            place.admission.revoke(**named)


def test_a_revocation_between_the_check_and_the_arrival(place: Place) -> None:
    identity = place.admission.identify({"token": place.token(jti="t")}, {})
    place.admission.revoke(jti="t")
    session = place.world.client(user="ann")
    place.admission.admitted(session, identity)
    assert closed(session) == [4501]


def test_redis_away(place: Place) -> None:
    """What this worker knows holds; the rest is asked when Redis is back."""
    place.admission.revoke(jti="known")
    other = Place()
    other.world.backend.revocations = place.world.backend.revocations
    place.away = True
    assert place.refused({"token": place.token(jti="known")}) is ErrorCode.TOKEN_REVOKED
    session = place.come(jti="unknown")
    identity = place.admission._held[session.sid].identity
    place.asked = lambda entries: {entry: place.now for entry in entries if entry == identity.revocable()["jti"]}
    place.admission.tick()
    assert closed(session) == []
    place.away = False
    place.admission.tick()
    assert closed(session) == [4501]


def test_after_a_gap_everybody_is_asked_about(place: Place) -> None:
    session = place.come(jti="t")
    entry = place.admission._held[session.sid].identity.revocable()["jti"]
    place.world.backend.revocations.revoke(entry, place.now, place.now + 60)
    place.admission.tick()
    assert closed(session) == []
    place.admission.on_gap()
    place.admission.tick()
    assert closed(session) == [4501]


def test_the_rate_of_a_token(place: Place) -> None:
    session = place.come(rate=2.5)
    assert session.queue.rate == 2.5
    assert place.admission.rate_of(session) == 2.5
    assert place.admission.rate_of(place.come("bob")) == place.settings.max_events_per_sec


def test_too_many_connections_of_a_user() -> None:
    place = Place(max_connections_per_user=2)
    sessions = [place.come() for _ in range(2)]
    assert place.refused({"token": place.token()}) is ErrorCode.LIMIT
    assert place.admission.identify({"token": place.token("bob")}, {}).user_id == "bob"
    place.world.connections.forget(sessions[0].sid)
    third = place.admission.identify({"token": place.token()}, {})
    assert third.user_id == "ann"
    place.come()
    place.admission.confirm(third, {})
    place.world.client(user="ann")  # it was let in at the same moment
    with pytest.raises(RequestError, match="WSAPP_MAX_CONNECTIONS_PER_USER"):
        place.admission.confirm(third, {})


def test_plain_http(place: Place) -> None:
    bearer = {"HTTP_AUTHORIZATION": f"Bearer {place.token()}"}
    assert place.admission.of_request(bearer).user_id == "ann"
    for environ in ({}, {"HTTP_COOKIE": f"token={place.token()}"}, {"QUERY_STRING": f"token={place.token()}"}):
        with pytest.raises(TokenRefused):
            place.admission.of_request(environ)
