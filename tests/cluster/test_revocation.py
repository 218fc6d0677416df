"""What is revoked on one worker ends on all of them within a second, and does not come back."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tests.clients.fleet import Fleet, fresh, publish, spread
from tests.clients.raw_client import RawSocket
from tests.harness import Reply, Server, http, wait_until
from tests.tokens import GUARDED, auth, mint
from wsapp.auth import revocation
from wsapp.backends.redis_keys import RedisKeys
from wsapp.core.api_keys import make_key

pytestmark = [pytest.mark.cluster, pytest.mark.node]

WITHIN = 1.0  # seconds, of the issue
KEY, SECRET = make_key("operator", ["admin"], 0.0)
SETTING = f"{KEY.name}:admin:{KEY.digest}"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """Two workers that ask for tokens."""
    with Server(2, app="tests.apps.guarded:app", env={**GUARDED, "WSAPP_API_KEYS": SETTING}) as server:
        yield server


def refused(server: Server, presented: dict[str, Any]) -> str:
    """The code that a raw client is refused with; "" when it is let in."""
    raw = RawSocket(server, connect=False)
    try:
        raw.send("40" + json.dumps(presented))
        told = raw.packet("4")
        return str(json.loads(told[2:])["data"]["code"]) if told.startswith("44") else ""
    finally:
        raw.close()


@pytest.mark.parametrize("kind", ["jti", "user", "session"])
def test_closed_on_both_workers_within_a_second(guarded: Server, fleet: Fleet, kind: str) -> None:
    name, agent = fresh(kind), fresh("agent")
    claims: dict[str, Any] = {"jti": {"jti": name}, "user": {"sub": name}, "session": {"sid": name}}[kind]
    presented = auth(**claims)
    bystanders = [fleet.npm(guarded, auth=auth("bystander", jti="other", sid="other")) for _ in range(4)]
    # reconnection off: what comes after the close is told by `refused`
    clients = fleet.many(guarded, "npm", "websocket", 16, auth=presented, reconnection=False)
    while set(spread(clients, guarded)) != set(guarded.worker_pids()) and len(clients) < 90:
        clients += fleet.many(guarded, "npm", "websocket", 8, auth=presented, reconnection=False)
    assert set(spread(clients, guarded)) == set(guarded.worker_pids())
    began = time.monotonic()
    assert guarded.post("/revoke", {kind: name}).status == 200
    for client in clients:
        client.wait_drop()
    ended = max(client.all("disconnect")[0].at for client in clients)
    assert ended - began < WITHIN
    assert {client.all("disconnect")[0].args[1] for client in clients} == {4501}
    assert {client.all("session-closed")[0].args[0]["reason"] for client in clients} == {"token_revoked"}
    for _ in range(4):  # whichever worker accepts
        assert refused(guarded, presented) == "token_revoked"
    for client in bystanders:
        client.subscribe("agent", agent)
    ids = publish(guarded, agent, 1)
    for client in bystanders:
        client.wait_ids(ids)
        assert not client.all("disconnect")


def call(server: Server, path: str, value: object) -> Reply:
    """A request of the server API."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {SECRET}"}
    return http(f"{server.url}/api/v1{path}", json.dumps(value).encode(), headers=headers)


@pytest.mark.parametrize("kind", ["jti", "userId", "session", "public"])
def test_through_the_api_on_both_workers_within_a_second(guarded: Server, kind: str) -> None:
    """By raw sockets: what takes long is then the server's doing, not that of a client's process."""
    name = fresh(kind)
    presented = auth(**{"jti": {"jti": name}, "userId": {"sub": name}, "session": {"sid": name}, "public": {
        "sub": name}}[kind])
    clients = [RawSocket(guarded, presented) for _ in range(6)]
    workers = {guarded.worker_of(client.local_port) for client in clients}
    while workers != set(guarded.worker_pids()) and len(clients) < 90:
        clients.append(RawSocket(guarded, presented))
        workers.add(guarded.worker_of(clients[-1].local_port))
    bystander = RawSocket(guarded, auth("bystander", jti="another"))
    if kind == "public":
        listed = http(f"{guarded.url}/api/v1/sessions?user={name}", headers={"X-API-Key": SECRET}).json()["sessions"]
        assert len(listed) == len(clients)
        bodies = [{"session": one["session"]} for one in listed]
    else:
        bodies = [{kind: name, "ttl": 60}]
    with ThreadPoolExecutor(len(clients)) as pool:  # each notes by itself when it was closed
        closed = [pool.submit(lambda client=client: (client.close_code(), time.monotonic())) for client in clients]
        began = time.monotonic()
        for body in bodies:
            assert call(guarded, "/revoke", body).status == 200
        assert {future.result()[0] for future in closed} == {4501}
        assert max(future.result()[1] for future in closed) - began < WITHIN * len(bodies)
    if kind != "public":
        assert refused(guarded, presented) == "token_revoked"
    assert bystander.request('["host-echo",1]') == 1
    bystander.close()


def test_a_revocation_is_over_when_its_time_is(guarded: Server) -> None:
    presented = auth(jti=(jti := fresh("jti")))
    assert call(guarded, "/revoke", {"jti": jti, "ttl": 1}).status == 200
    assert refused(guarded, presented) == "token_revoked"
    for _ in range(4):  # whichever worker accepts: the one that was asked remembers, too
        wait_until(lambda: refused(guarded, presented) == "", "it is let in again")


def test_a_stream_is_closed_too(guarded: Server) -> None:
    token = mint(fresh("user"), jti=(jti := fresh("jti")))
    with urllib.request.urlopen(urllib.request.Request(
            f"{guarded.url}/api/v1/stream?rooms=agent:a", headers={"Authorization": f"Bearer {token}"})) as stream:
        assert b"retry" in stream.readline()
        assert call(guarded, "/revoke", {"jti": jti}).status == 200
        assert b'event: session-closed\ndata: {"code":4501' in stream.read()


def _kept(server: Server, entry: str) -> int:
    with redis.Redis.from_url(server.redis_url) as client:
        return int(client.exists(RedisKeys().revocation(entry)))


def test_a_token_issued_later_lets_the_user_in_again(guarded: Server) -> None:
    user = fresh("user")
    old = auth(user)
    assert refused(guarded, old) == ""
    guarded.post("/revoke", {"user": user})
    assert refused(guarded, old) == "token_revoked"
    assert refused(guarded, auth(user, iat=time.time() + 1)) == "token_revoked", "perhaps by a clock that is ahead"
    wait_until(lambda: refused(guarded, auth(user)) == "", "a token issued later than WSAPP_JWT_LEEWAY from then")
    assert refused(guarded, auth(user, iat=None)) == "token_revoked", "one that does not say when it was issued"


def test_a_revocation_ends_with_what_it_revokes(guarded: Server) -> None:
    presented = auth(jti=(jti := fresh("jti")))
    guarded.post("/revoke", {"jti": jti, "until": time.time() + 0.5})
    assert refused(guarded, presented) == "token_revoked"
    wait_until(lambda: _kept(guarded, revocation("jti", jti)) == 0, "the entry to lapse")


def test_a_wsapp_session_can_be_revoked(guarded: Server, fleet: Fleet) -> None:
    client = fleet.python(guarded, auth=auth("ann"), reconnection=False)
    client.subscribe("agent", fresh())
    session = client.wait_session()["sessionId"]
    guarded.post("/revoke", {"session": session})
    client.wait_drop()
    for _ in range(4):
        assert refused(guarded, {"token": mint("ann"), "sessionId": session}) == "token_revoked"
    assert refused(guarded, auth("ann")) == ""
    guarded.marked = 0
    assert session not in guarded.log_tail(100_000), "a session id is a secret"


def test_what_was_revoked_while_redis_was_away_ends_when_it_is_back(fleet: Fleet) -> None:
    jti = fresh("jti")
    with Server(1, app="tests.apps.guarded:app", env=GUARDED) as server, \
            Server(1, server.redis_url, app="tests.apps.guarded:app", env=GUARDED) as other:
        held = fleet.npm(other, auth=auth(jti=jti), reconnection=False)
        with redis.Redis.from_url(server.redis_url) as client:
            client.client_kill_filter(_type="pubsub")  # control messages of this moment are lost
        assert server.post("/revoke", {"jti": jti}).status == 200
        held.wait_drop()
        assert held.all("disconnect")[0].args[1] == 4501


def test_restarted_workers_know(fleet: Fleet) -> None:
    jti = fresh("jti")
    with Server(1, app="tests.apps.guarded:app", env=GUARDED) as server:
        server.post("/revoke", {"jti": jti})
        [pid] = server.worker_pids()
        server.kill_worker(pid)
        wait_until(lambda: server.worker_pids() and server.ready(), "a new worker")
        assert refused(server, auth(jti=jti)) == "token_revoked"
