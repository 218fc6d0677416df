"""What is kept for clients, what waits for them, and what the server API takes: each limit is driven over its end, and
names itself, on one worker with small limits, while somebody else there is served as ever and memory stays flat."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients.fleet import Fleet, fresh
from tests.clients.raw_client import RawSocket
from tests.cluster.bystander import counted, memory, undisturbed
from tests.harness import Reply, Server, http, wait_until
from tests.tokens import GUARDED, auth, mint
from wsapp.core.api_keys import make_key

pytestmark = [pytest.mark.cluster, pytest.mark.node]

KEYS = {name: make_key(name, scopes, 0.0)
        for name, scopes in {"all": ["publish", "read", "admin"], "reader": ["read"]}.items()}
LIMITS = {
    "WSAPP_API_KEYS": ",".join(f"{key.name}:{'+'.join(sorted(key.scopes))}:{key.digest}" for key, _ in KEYS.values()),
    "WSAPP_HISTORY_SIZE": "50", "WSAPP_HISTORY_BYTES": "100000", "WSAPP_HISTORY_AGE": "2", "WSAPP_MAX_REPLAY": "30",
    "WSAPP_QUEUE_ITEMS": "40", "WSAPP_QUEUE_BYTES": "20000", "WSAPP_MAX_EVENT": "5000", "WSAPP_API_MAX_BODY": "50000",
    "WSAPP_CRITICAL_ITEMS": "10", "WSAPP_CRITICAL_ATTEMPTS": "2", "WSAPP_CRITICAL_FIRST": "0.2",
    "WSAPP_CRITICAL_CAP": "0.2", "WSAPP_MAX_ROOMS": "5"}
ROUNDS = 100
ONE_GROWS, ALL_GROW = 25e6, 40e6  # bytes


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    with Server(1, app="tests.apps.guarded:app", env={**GUARDED, **LIMITS}) as server:
        with RawSocket(server, auth("first")) as raw:
            assert raw.request('["host-echo",1]') == 1  # what is loaded at the first use counts for nobody
        before = memory(server)
        yield server
        assert memory(server) - before < ALL_GROW


def ask(server: Server, path: str, body: object = None, key: str = "all", **headers: str) -> Reply:
    """One call of the server API."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return http(f"{server.url}/api/v1{path}", data, headers={
        "Content-Type": "application/json", "X-API-Key": KEYS[key][1] if key in KEYS else key, **headers})


# -- what waits for a client, and what is kept of a room


def throttled(server: Server, count: int, size: int, reason: str) -> None:
    """A user who takes almost nothing: what is too much is shed and told, and all is accounted for."""
    project = fresh("project")
    with RawSocket(server, auth(fresh("slow"))) as raw:
        raw.request(json.dumps(["subscribe-project", project]))
        assert raw.request('["set-rate",{"rate":0.1}]')["ok"]
        server.emitter.publish_many(
            [("project-event", project, "note", {"n": number, "text": "x" * size}) for number in range(count)])
        came: list[int] = []
        left_out = 0
        faster = False
        while len(came) + left_out < count:
            name, data, *_ = json.loads(raw.packet("42[")[2:])
            if name == "note":
                came.append(data["n"])
            elif name == "shed":
                assert (data["room"], data["reason"]) == (f"project:{project}", reason)
                left_out += data["count"]
            if left_out and not faster:
                faster = True
                raw.send('42["set-rate",{"rate":1000}]')
        assert came == sorted(came)
        assert count / 2 < left_out < count


def too_many_wait(server: Server) -> None:
    """WSAPP_QUEUE_ITEMS, under MAX_EVENTS_PER_SEC."""
    throttled(server, 300, 1, "items")


def too_much_waits(server: Server) -> None:
    """WSAPP_QUEUE_BYTES."""
    throttled(server, 30, 4000, "bytes")


def history(server: Server, agent: str, query: str = "since=0&limit=1000") -> Any:
    return ask(server, f"/rooms/agent:{agent}/history?{query}").json()


def fill(server: Server, count: int, size: int) -> str:
    agent = fresh("agent")
    server.emitter.publish_many(
        [("agent-thought", {"agentId": agent, "thought": "x" * size}) for _ in range(count)])
    return agent


def history_of_many(server: Server) -> None:
    """WSAPP_HISTORY_SIZE."""
    kept = history(server, fill(server, 2000, 10))
    assert (kept["first"] > 1950, len(kept["events"]) <= 50, kept["seq"]) == (True, True, 2000)


def history_of_much(server: Server) -> None:
    """WSAPP_HISTORY_BYTES; and who wants what is gone is told that."""
    agent = fill(server, 30, 4500)
    assert 8 <= history(server, agent)["first"] <= 31
    with RawSocket(server, auth(fresh("late"))) as raw:
        told = raw.request(json.dumps(["subscribe-agent", {"id": agent, "since": 1}]))
    assert (told["recovered"], told["reason"], told["missed"]) == (False, "trimmed", 29)
    assert counted(server, "recoveryRefused") > 0


def history_of_long_ago(server: Server) -> None:
    """WSAPP_HISTORY_AGE."""
    agent = fill(server, 20, 10)

    def forgotten() -> bool:
        server.emitter.broadcast_agent_thought({"agentId": agent, "thought": "another"})
        return bool(history(server, agent)["first"] > 20)

    wait_until(forgotten, "what is old to go", step=0.3)


def a_long_replay(server: Server) -> None:
    """WSAPP_MAX_REPLAY."""
    agent = fill(server, 45, 10)
    for _ in range(ROUNDS):
        with RawSocket(server, auth(fresh("late"))) as raw:
            told = raw.request(json.dumps(["subscribe-agent", {"id": agent, "since": 5}]))
        assert (told["recovered"], told["reason"], told["missed"]) == (False, "too_many", 40)


def critical_events_that_nobody_acknowledges(server: Server) -> None:
    """WSAPP_CRITICAL_ITEMS are kept, the others are dead letters at once; those that are kept after
    WSAPP_CRITICAL_ATTEMPTS sendings."""
    project, user = fresh("project"), fresh("deaf")
    with RawSocket(server, auth(user)) as raw:
        raw.request(json.dumps(["subscribe-project", project]))
        calls = [("project-event", project, "alarm", number, {"critical": True}) for number in range(60)]
        ids = [receipt.id for receipt in server.emitter.publish_many(calls)]

        def letters() -> list[Any]:
            reply = ask(server, "/dead-letters?limit=100")
            assert reply.status == 200, reply.text
            return [one for one in reply.json()["deadLetters"] if one["userId"] == user]

        dead = wait_until(lambda: found if len(found := letters()) == 60 else None, "all to be dead")
        assert sorted(one["id"] for one in dead) == sorted(ids)
        assert sum(one["attempts"] == 1 for one in dead) >= 20, "at once"
        assert max(one["attempts"] for one in dead) == 2
        assert raw.request(json.dumps(["nack-event", ids[0]]))["error"]["code"] == "not_found"
    assert ask(server, "/dead-letters/discard", {"all": True}).status == 200


# -- what the server API takes


def event(**more: Any) -> dict[str, Any]:
    return {"type": "project-event", "projectId": "p", "event": "note", "data": 1, **more}


def heads(server: Server) -> None:
    """A hundred fields and 64 kB of a head."""
    for fields in ("X: y\r\n" * 101, f"X: {'y' * 70_000}\r\n"):
        for _ in range(ROUNDS):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
                sock.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
                assert sock.recv(100).startswith(b"HTTP/1.1 431 ")


def refused(path: str, body: object, status: int, code: str, told: str, key: str = "all",
            **headers: str) -> Callable[[Server], None]:
    """Calls that all get the same problem."""
    def calls(server: Server) -> None:
        for _ in range(ROUNDS):
            reply = ask(server, path, body, key, **headers)
            problem = reply.json()
            assert (reply.status, problem["code"]) == (status, code), problem
            assert told in problem["detail"]
            assert problem["retryable"] is False
    return calls


def streams_of_too_many_rooms(server: Server) -> None:
    """WSAPP_MAX_ROOMS."""
    bearer = {"Authorization": f"Bearer {mint(fresh('many'))}"}
    for _ in range(ROUNDS):
        reply = http(f"{server.url}/api/v1/stream?rooms=agent:1,agent:2,agent:3,task:1,task:2,task:3", headers=bearer)
        assert (reply.status, reply.json()["detail"]) == (422, "rooms must name 1 to 5 rooms")


@pytest.mark.parametrize("hostile", [
    too_many_wait, too_much_waits, history_of_many, history_of_much, history_of_long_ago, a_long_replay,
    critical_events_that_nobody_acknowledges, heads, streams_of_too_many_rooms,
    pytest.param(refused("/publish", event(data="x" * 6000), 422, "bad_payload", "at most 5000 bytes"), id="an event"),
    pytest.param(refused("/publish", b" " * 60_000, 413, "bad_request", "50000 bytes"), id="a body"),
    pytest.param(refused("/publish/batch", {"events": [event()] * 501}, 422, "bad_payload", "1 to 500 events"),
                 id="a batch"),
    pytest.param(refused("/publish", b"[" * 40_000, 400, "bad_request", "not JSON"), id="nesting"),
    pytest.param(refused("/publish", event(alsoTo=[f"task:{one}" for one in range(16)]), 422, "bad_payload", "alsoTo"),
                 id="rooms of an event"),
    pytest.param(refused("/publish", event(projectId="x" * 201), 422, "bad_payload", "200 characters"), id="an id"),
    pytest.param(refused("/publish", event(), 422, "bad_payload", "190 visible",
                         **{"Idempotency-Key": "x" * 191}), id="an idempotency key"),
    pytest.param(refused("/publish", event(), 401, "unauthorized", "not a known API key", "x" * 5000), id="a key"),
    pytest.param(refused("/publish", event(), 403, "forbidden", "has not the scope", "reader"), id="a scope"),
    pytest.param(refused("/rooms/agent:a/history?limit=1001", None, 422, "bad_payload", "1000"), id="a page"),
    pytest.param(refused("/dead-letters?limit=101", None, 422, "bad_payload", "100"), id="a page of dead letters"),
    pytest.param(refused("/deliveries/1?wait=31", None, 422, "bad_payload", "30"), id="a wait"),
])
def test_each_limit_names_itself_and_costs_nobody_anything(small: Server, fleet: Fleet,
                                                           hostile: Callable[[Server], None]) -> None:
    with undisturbed(small, fleet, ONE_GROWS):
        hostile(small)


def test_what_is_refused_is_counted(small: Server) -> None:
    names = ("roomsRefused", "oversizeClosed", "protocolClosed", "apiRefused")
    before = {name: counted(small, name) for name in names}
    with RawSocket(small, auth(fresh("many"))) as raw:
        codes = [raw.request(json.dumps(["subscribe-agent", str(number)])).get("error", {}).get("code")
                 for number in range(7)]
        assert codes == [None] * 5 + ["limit"] * 2
        raw.bytes(b"\x81\xff" + (2**40).to_bytes(8, "big") + b"mask")
        assert raw.close_code() == 1009
    for wrong in (b"\xc1\x80mask", b"\x81\x82\0\0\0\0\xc3\x28"):
        with RawSocket(small, auth(fresh("wrong"))) as raw:
            raw.bytes(wrong)
            assert raw.close_code() in (1002, 1007)
    with RawSocket(small, auth(fresh("wrong"))) as raw:
        raw.send("9")
        assert raw.close_code() == 1002
    assert ask(small, "/publish", 1).status == 422
    wait_until(lambda: {name: counted(small, name) - before[name] for name in names} == {
        "roomsRefused": 2, "oversizeClosed": 1, "protocolClosed": 3, "apiRefused": 1}, "all are counted")
    assert all(small.metric(f"wsapp_{name}_total") > 0
               for name in ("rooms_refused", "oversize_closed", "protocol_closed"))
