"""Rooms as Server-Sent Events on two workers, read as curl would: live, resumed, throttled, drained."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import jwt
import pytest

from tests.clients.fleet import fresh, publish
from tests.cluster.bystander import flat
from tests.harness import DEADLINE, Server, wait_until
from tests.harness import http as ask
from tests.tokens import GUARDED, SECRET, mint
from wsapp.core.api_keys import make_key

pytestmark = [pytest.mark.cluster]

KEY, READER = make_key("reader", ["read"], 0.0)
SETTING = f"{KEY.name}:read:{KEY.digest}"


class Told(NamedTuple):
    """One event of a stream."""

    event: str
    data: Any
    id: str


class Sse:
    """One stream, read line by line as the HTML standard says."""

    def __init__(self, server: Server, *rooms: str, last: str = "", headers: dict[str, str] | None = None,
                 **query: str) -> None:
        self._link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        sent = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {}), **(headers or {})}
        self._link.request("GET", "/api/v1/stream?" + urlencode({"rooms": ",".join(rooms), **query}), headers=sent)
        self.reply = self._link.getresponse()
        self.id, self.retry, self.comments = "", 0, 0
        self.events = self._events()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.reply.close()
        self._link.close()

    def _events(self) -> Iterator[Told]:
        fields: dict[str, str] = {}
        while line := self.reply.readline():
            text = line.decode().rstrip("\n")
            name, _, value = text.partition(": ")
            if name == "id":
                self.id = value
            elif name == "retry":
                self.retry = int(value)
            elif text.startswith(":"):
                self.comments += 1
            elif text:
                fields[name] = value
            elif fields:
                yield Told(fields.get("event", "message"), json.loads(fields["data"]), self.id)
                fields = {}

    def take(self, count: int, event: str = "agent-thought") -> list[Told]:
        found: list[Told] = []
        while len(found) < count:
            told = next(self.events)
            if told.event == event:
                found.append(told)
        return found

    def first(self) -> Any:
        return self.take(1, "session")[0].data


def test_live_events_as_curl_sees_them(cluster: Server) -> None:
    agent = fresh("agent")
    with Sse(cluster, f"agent:{agent}") as stream:
        assert stream.reply.status == 200
        assert stream.reply.headers["content-type"].startswith("text/event-stream")
        assert "no-store" in stream.reply.headers["cache-control"]
        told = stream.first()
        assert len(told.pop("sessionId")) >= 24
        assert told == {"recovered": True, "missed": 0, "rooms": {f"agent:{agent}": {"epoch": "", "seq": 0}}}
        assert stream.retry > 0
        ids = publish(cluster, agent, 3)
        came = stream.take(3)
        assert [told.data["id"] for told in came] == ids
        assert [told.data["seq"] for told in came] == [1, 2, 3]
        assert [told.id.partition("@")[0] for told in came] == ["1", "2", "3"]


def test_resumed_by_last_event_id_on_any_worker(cluster: Server) -> None:
    """Every id is a place to come back to: nothing missing, nothing twice."""
    agent, task = fresh("agent"), fresh("task")
    rooms = [f"agent:{agent}", f"task:{task}"]
    ids = publish(cluster, agent, 2)
    cluster.emitter.broadcast_task_update({"taskId": task, "status": "pending"})
    got: list[str] = []
    last = ""
    with Sse(cluster, *rooms, since=f"agent:{agent}:0,task:{task}:0") as stream:
        assert stream.first()["missed"] == 3
        got += [told.data["id"] for told in stream.take(2)]
        last = stream.id
    for round in range(6):
        ids += publish(cluster, agent, 2, 2 + 2 * round)
        with Sse(cluster, *rooms, last=last) as stream:
            assert stream.first()["recovered"] is True
            got += [told.data["id"] for told in stream.take(2)]
            last = stream.id
    assert got == ids


def test_a_flood_is_throttled_and_whole(cluster: Server) -> None:
    agent = fresh("agent")
    with Sse(cluster, f"agent:{agent}") as stream:
        stream.first()
        ids = [id for start in range(0, 200, 20) for id in publish(cluster, agent, 20, start)]
        came = stream.take(200)
        assert [told.data["id"] for told in came] == ids
        assert came[-1].id.startswith("200@")


def test_a_gone_history_is_told(cluster: Server) -> None:
    agent = fresh("agent")
    publish(cluster, agent, 3)
    with Sse(cluster, f"agent:{agent}", last="2@another-epoch") as stream:
        told = stream.first()
        assert (told["recovered"], told["reason"]) == (False, "epoch")
        assert stream.id.startswith("3@")


def test_room_names_with_commas(cluster: Server) -> None:
    agent = fresh("agent") + ",b"
    link = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=DEADLINE)
    link.request("GET", "/api/v1/stream?" + urlencode({"room": f"agent:{agent}"}))
    assert link.getresponse().status == 200
    link.close()


@pytest.mark.parametrize("query", ["", "rooms=nowhere", "rooms=agent:a&since=x", "rooms=agent:a&since=1@a,2@b",
                                   "rooms=agent:a&since=task:t:4", "rooms=agent:a&colour=red"])
def test_wrong_queries_are_problems(cluster: Server, query: str) -> None:
    reply = ask(f"{cluster.url}/api/v1/stream?{query}")
    assert (reply.status, reply.headers["content-type"]) == (422, "application/problem+json")


def test_foreign_pages_are_refused(cluster: Server) -> None:
    url = f"{cluster.url}/api/v1/stream?rooms=agent:a"
    assert ask(url, headers={"Origin": "https://evil.example"}).status == 403
    assert ask(url, method="HEAD").status == 200
    with Sse(cluster, "agent:a", headers={"Origin": cluster.url}) as stream:
        assert stream.reply.headers["access-control-allow-origin"] == cluster.url


def test_silence_is_filled_with_comments_and_the_end_is_noticed() -> None:
    with Server(1, env={"PING_INTERVAL": "100"}) as server:
        stream = Sse(server, "agent:a")
        stream.first()
        assert b":" in stream.reply.readline()
        stream.close()
        wait_until(lambda: server.metric("wsapp_connections") == 0, "the stream is forgotten")


def test_a_drain_tells_when_to_come_back() -> None:
    agent = fresh("agent")
    with Server(2) as server:
        streams = [Sse(server, f"agent:{agent}") for _ in range(4)]
        for stream in streams:
            stream.first()
        publish(server, agent, 1)
        for stream in streams:
            stream.take(1)
        server.terminate()
        for stream in streams:
            told = list(stream.events)
            assert [each.event for each in told] == ["server-shutdown", "session-closed"]
            assert stream.retry == told[0].data["retryAfterMs"]
            assert told[1].data["code"] == 1012
        server.start()
        publish(server, agent, 1, 1)
        with Sse(server, f"agent:{agent}", last=streams[0].id) as again:
            assert again.first()["recovered"] is True
            assert again.take(1)[0].data["thought"] == "thought 1"


def test_who_does_not_read_is_cut_off_and_costs_others_nothing() -> None:
    agent = fresh("agent")
    with Server(1, env={"WSAPP_OUTBOX_BYTES": "100000", "MAX_EVENTS_PER_SEC": "10000"}) as server:
        deaf = Sse(server, f"agent:{agent}")
        deaf.first()
        with Sse(server, f"agent:{agent}") as other:
            other.first()
            with flat(server, 40e6):
                for number in range(400):
                    server.emitter.broadcast_agent_thought({"agentId": agent, "thought": "x" * 50_000, "n": number})
                    [told] = other.take(1)
                    assert told.data["n"] == number
                wait_until(lambda: server.metric("wsapp_connections") == 1, "cut off")
        deaf.close()


def critical(server: Server, project: str) -> str:
    return server.emitter.broadcast_project_event(project, "deployed", [1], critical=True).id


def reply_to(server: Server, verb: str, value: object, **headers: str) -> Any:
    return ask(f"{server.url}/api/v1/stream/{verb}", json.dumps(value).encode(),
               headers={"Content-Type": "application/json", **headers})


def state(server: Server, id: str) -> list[tuple[str, int]]:
    return [(at["state"], at["attempts"]) for at in server.emitter.delivery_status(id)["users"].values()]


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    """Two workers that send critical events again soon, and take tokens."""
    env = {**GUARDED, "WSAPP_CRITICAL_FIRST": "0.3", "WSAPP_CRITICAL_ATTEMPTS": "3"}
    with Server(2, env=env) as server:
        yield server


def test_a_stream_acknowledges_by_its_token_on_any_worker(impatient: Server) -> None:
    project, user = fresh("project"), fresh("user")
    bearer = {"Authorization": f"Bearer {mint(user)}"}
    with Sse(impatient, f"project:{project}", headers=bearer) as stream:
        stream.first()
        ids = [critical(impatient, project) for _ in range(6)]
        asked = stream.take(6, "ack-wanted")
        assert [(told.data["id"], told.data["event"]) for told in asked] == [(id, "deployed") for id in ids]
        for id in ids:  # whichever worker accepts
            stranger = reply_to(impatient, "ack", {"id": id}, Authorization=f"Bearer {mint('another')}")
            assert (stranger.status, stranger.json()["code"]) == (404, "not_found")
            assert reply_to(impatient, "ack", {"id": id}, **bearer).json() == {"id": id}
            assert [one for one, _ in state(impatient, id)] == ["acked"]


def test_a_stream_refuses_and_gets_it_again(impatient: Server) -> None:
    project = fresh("project")
    bearer = {"Authorization": f"Bearer {mint(fresh('user'))}"}
    with Sse(impatient, f"project:{project}", headers=bearer) as stream:
        stream.first()
        id = critical(impatient, project)
        for _ in range(3):
            assert stream.take(1, "deployed")[0].data == [1]
            assert stream.take(1, "ack-wanted")[0].data["id"] == id
            told = reply_to(impatient, "nack", {"id": id}, **bearer).json()
            if told["attempts"] == 3:
                break
        wait_until(lambda: state(impatient, id) == [("dead", 3)], "given up")
        again = reply_to(impatient, "nack", {"id": id}, **bearer)
        assert again.status == 404


def test_what_a_stream_missed_is_waiting_for_its_user(impatient: Server) -> None:
    project = fresh("project")
    bearer = {"Authorization": f"Bearer {mint(fresh('user'))}"}
    with Sse(impatient, f"project:{project}", headers=bearer) as stream:
        stream.first()
        id = critical(impatient, project)
        stream.take(1, "ack-wanted")
    with Sse(impatient, f"project:{project}", headers=bearer) as again:  # says nothing about where it stood
        again.first()
        assert again.take(1, "ack-wanted")[0].data["id"] == id


def test_who_has_no_token_acknowledges_by_the_streams_secret(cluster: Server) -> None:
    project = fresh("project")
    with Sse(cluster, f"project:{project}") as stream:
        secret = stream.first()["sessionId"]
        ids = [critical(cluster, project) for _ in range(4)]
        stream.take(4, "ack-wanted")
        for wrong in ({"id": ids[0]}, {"id": ids[0], "sessionId": secret[:12] + "x" * 12}):
            assert reply_to(cluster, "ack", wrong).status == 401
        for id in ids:
            assert reply_to(cluster, "ack", {"id": id, "sessionId": secret}).status == 200
            assert [one for one, _ in state(cluster, id)] == ["acked"]


@pytest.mark.parametrize(("value", "status"), [
    ({}, 422), ({"id": 7}, 422), ({"id": "x", "more": 1}, 422), ([], 422), ({"id": "nothing"}, 404)])
def test_wrong_acknowledgements(impatient: Server, value: object, status: int) -> None:
    bearer = {"Authorization": f"Bearer {mint('ann')}"}
    assert reply_to(impatient, "ack", value, **bearer).status == status
    assert reply_to(impatient, "ack", value).json()["code"] == "token_missing"
    assert reply_to(impatient, "ack", value, Authorization="Bearer x").json()["code"] == "token_invalid"


def test_pages_from_elsewhere_acknowledge_only_where_they_may() -> None:
    page = {"Origin": "https://app.example"}
    with Server(1, env={"WEBSOCKET_CORS_ORIGIN": page["Origin"]}) as server:
        url = f"{server.url}/api/v1/stream/ack"
        asked = ask(url, method="OPTIONS", headers=page)
        assert (asked.status, asked.headers["access-control-allow-origin"]) == (204, page["Origin"])
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
        refused = reply_to(server, "ack", {"id": "x"}, **page)
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, page["Origin"])
        assert ask(url, method="OPTIONS", headers={"Origin": "https://evil.example"}).status == 403


def test_presence_of_streams_and_for_streams(cluster: Server) -> None:
    agent = fresh("agent")
    room = f"agent:{agent}"
    with Sse(cluster, room, presence="true") as one:
        told = one.first()["presence"][room]
        assert (told["users"], told["connections"], len(told["members"])) == (1, 1, 1)
        other = Sse(cluster, room)
        other.first()
        [came] = one.take(1, "presence")
        assert (came.data["room"], len(came.data["joined"]), came.data["users"]) == (room, 1, 2)
        other.close()
        [left] = one.take(1, "presence")
        assert (left.data["left"], left.data["users"]) == (came.data["joined"], 1)


def test_presence_needs_the_right(impatient: Server) -> None:
    for presence, status in (("true", 403), ("maybe", 422)):
        told = ask(f"{impatient.url}/api/v1/stream?rooms=agent:a&presence={presence}",
                   headers={"Authorization": f"Bearer {mint('ann')}"})
        assert told.status == status
    bearer = {"Authorization": f"Bearer {mint('ann', rooms={'agent:*': ['read', 'presence']})}"}
    with Sse(impatient, "agent:a", presence="true", headers=bearer) as stream:
        assert stream.first()["presence"]["agent:a"]["members"] == ["ann"]


def _unread(server: Server, path: str, receive: int = 4096, count: int = 1) -> socket.socket:
    """A request, or several behind each other, whose answers nobody reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.settimeout(DEADLINE)
    sock.connect(("127.0.0.1", server.port))
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {READER}\r\n\r\n".encode() * count)
    return sock


def test_answers_that_are_not_read_are_cut_off() -> None:
    """An SSE client with little waiting, and who asks for page after page of a history: both are given up after
    WSAPP_OUTBOX_AGE, and what waits for them is bounded."""
    agent = fresh("agent")
    env = {"WSAPP_OUTBOX_AGE": "1", "MAX_EVENTS_PER_SEC": "10000", "WSAPP_API_KEYS": SETTING,
           "WSAPP_HISTORY_BYTES": "30000000"}
    with Server(1, env=env) as server, Sse(server, f"agent:{agent}") as reader, flat(server, 60e6):
        reader.first()
        socks = [_unread(server, f"/api/v1/stream?rooms=agent:{agent}")]
        wait_until(lambda: server.metric("wsapp_connections") == 2, "two streams")
        for number in range(80):
            server.emitter.broadcast_agent_thought({"agentId": agent, "thought": "x" * 100_000, "n": number})
            assert reader.take(1)[0].data["n"] == number
        wait_until(lambda: server.metric("wsapp_connections") == 1, "the deaf one is gone")
        before = server.metric("wsapp_answers_unread_total")

        def ask_again() -> bool:  # Redis need not be quick enough each time
            socks.append(_unread(server, f"/api/v1/rooms/agent:{agent}/history?limit=80", count=60))
            return server.metric("wsapp_answers_unread_total") > before

        wait_until(ask_again, "the history, too", step=1.5)
        publish(server, agent, 1)
        assert reader.take(1)[0].data["thought"] == "thought 0"
        for sock in socks:
            sock.close()


def test_full_workers_refuse() -> None:
    with Server(1, env={"MAX_CONNECTIONS": "1"}) as server, Sse(server, "agent:a") as stream:
        stream.first()
        refused = ask(f"{server.url}/api/v1/stream?rooms=agent:a")
        assert refused.status == 503
        assert refused.headers["retry-after"]


def test_hooks_of_the_host_decide(host: Server) -> None:
    with Sse(host, "agent:a") as stream:
        stream.first()
        calls = host.get("/calls").json()
        assert calls[-2:] == ["connect", "subscribe"]
    wait_until(lambda: host.get("/calls").json()[-1] == "disconnect", "told of the end")


def test_tokens_and_rights_hold_for_streams() -> None:
    secret = SECRET
    claims = {"sub": "ann", "exp": time.time() + 3600, "rooms": ["agent:mine*"]}
    token = jwt.encode(claims, secret)
    with Server(1, env={"WSAPP_JWT_SECRET": secret, "WSAPP_JWT_LEEWAY": "0"}) as server:
        missing = ask(f"{server.url}/api/v1/stream?rooms=agent:mine")
        assert (missing.status, missing.json()["code"]) == (401, "token_missing")
        query = ask(f"{server.url}/api/v1/stream?rooms=agent:mine&token={token}")
        assert query.status == 401, "no token in the query unless a setting allows it"
        bearer = {"Authorization": f"Bearer {token}"}
        foreign = ask(f"{server.url}/api/v1/stream?rooms=agent:mine,agent:yours", headers=bearer)
        assert (foreign.status, foreign.json()["code"]) == (403, "forbidden")
        with Sse(server, "agent:mine", headers=bearer) as stream:
            stream.first()
            publish(server, "mine", 1)
            assert stream.take(1)[0].data["agentId"] == "mine"
        soon = jwt.encode({**claims, "exp": time.time() + 3}, secret)
        with Sse(server, "agent:mine", headers={"Authorization": f"Bearer {soon}"}) as stream:
            last = list(stream.events)[-1]
            assert (last.event, last.data["code"]) == ("session-closed", 4500)
