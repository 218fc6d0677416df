"""The server API on two workers: keys, publishing, history, who is there, throwing out, and its documents."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import jsonschema
import pytest

from tests.clients.fleet import Fleet, fresh
from tests.clients.raw_client import RawSocket
from tests.harness import ROOT, Reply, Server, http, wait_until
from wsapp.core.api_keys import make_key

pytestmark = [pytest.mark.cluster]

KEYS = {name: make_key(name, scopes, 0.0) for name, scopes in {
    "all": ["publish", "read", "admin"], "publisher": ["publish"], "reader": ["read"]}.items()}
SETTING = ",".join(f"{key.name}:{'+'.join(sorted(key.scopes))}:{key.digest}" for key, _ in KEYS.values())


class Api:
    """Calls, each checked against the served OpenAPI document."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.document = http(f"{server.url}/api/v1/openapi.json").json()

    def call(self, method: str, path: str, body: object = None, key: str | None = "all",
             headers: Mapping[str, str] | None = None) -> Reply:
        sent = {"Accept": "application/json", **(headers or {})}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        if key is not None:
            sent["Authorization"] = f"Bearer {KEYS[key][1] if key in KEYS else key}"
        reply = http(f"{self.server.url}/api/v1{path}", data, method=method, headers=sent)
        self.check(method, path, reply)
        return reply

    def check(self, method: str, path: str, reply: Reply) -> None:
        """Whether the document says that it answers so."""
        if reply.status >= 400:
            assert reply.headers["content-type"] == "application/problem+json"
            jsonschema.validate(reply.json(), self.schema("Problem"))
            assert reply.json()["status"] == reply.status
            return
        found = self.document["paths"][self.template(path)][method.lower()]["responses"][str(reply.status)]
        if reply.status != 304 and reply.headers.get("content-encoding") != "gzip":
            schema = found["content"]["application/json"]["schema"]
            jsonschema.validate(reply.json(), {**schema, "components": self.document["components"]})

    def schema(self, name: str) -> dict[str, Any]:
        return {"$ref": f"#/components/schemas/{name}", "components": self.document["components"]}

    @staticmethod
    def template(path: str) -> str:
        path = path.partition("?")[0]
        if path.startswith("/deliveries/"):
            return "/deliveries/{id}"
        for end in ("/history", "/presence"):
            if path.startswith("/rooms/") and path.endswith(end):
                return "/rooms/{room}" + end
        return path

    def get(self, path: str, **more: Any) -> Any:
        reply = self.call("GET", path, **more)
        assert reply.status == 200, reply.text
        return reply.json()

    def thought(self, agent: str, text: str = "hm", key: str = "all", **more: Any) -> Reply:
        return self.call("POST", "/publish", {"type": "agent-thought", "data": {"agentId": agent, "thought": text}},
                         key, **more)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(workers=2, env={"WSAPP_API_KEYS": SETTING}) as server:
        yield server


@pytest.fixture(scope="module")
def api(server: Server) -> Api:
    return Api(server)


def raw(server: Server, agent: str) -> RawSocket:
    client = RawSocket(server)
    assert client.request(json.dumps(["subscribe-agent", agent]))["ok"]
    return client


# -- keys


def test_without_any_key_it_says_how_to_make_one(cluster: Server) -> None:
    reply = http(f"{cluster.url}/api/v1/stats")
    assert reply.status == 403
    assert reply.headers["content-type"] == "application/problem+json"
    assert "wsapp api-key create" in reply.json()["detail"]


def test_keys_and_scopes(api: Api) -> None:
    missing = api.call("GET", "/stats", key=None)
    assert (missing.status, missing.headers["www-authenticate"]) == (401, 'Bearer realm="wsapp"')
    assert api.call("GET", "/stats", key="wsapp_wrong").status == 401
    assert api.call("GET", "/stats", key="publisher").status == 403
    assert api.call("GET", "/stats", key="reader").status == 200
    assert api.thought("a", key="reader").status == 403
    assert api.call("POST", "/disconnect", {"userId": "x"}, "reader").status == 403
    assert api.call("GET", "/stats", key=None, headers={"X-API-Key": KEYS["reader"][1]}).status == 200


def test_a_key_made_by_the_command_works_until_it_is_revoked(api: Api) -> None:
    def command(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-m", "wsapp", "api-key", *arguments], cwd=ROOT, check=True,
                              capture_output=True, text=True, timeout=60, env={"REDIS_URL": api.server.redis_url})
        return done.stdout.strip()

    secret = command("create", "ci", "--scope", "read")
    wait_until(lambda: api.call("GET", "/stats", key=secret).status == 200, "the new key is known")
    assert "ci" in command("list")
    assert secret not in command("list")
    command("revoke", "ci")
    wait_until(lambda: api.call("GET", "/stats", key=secret).status == 401, "the key is refused")


# -- publishing


def test_publish_reaches_watchers(api: Api) -> None:
    agent = fresh("agent")
    client = raw(api.server, agent)
    reply = api.thought(agent, "by curl", headers={"Idempotency-Key": '"k-' + agent + '"'})
    told = reply.json()
    assert (reply.status, told["status"], told["duplicate"]) == (200, "accepted", False)
    assert told["positions"][f"agent:{agent}"]["seq"] == 1
    again = api.thought(agent, "by curl", headers={"Idempotency-Key": "k-" + agent}).json()
    assert (again["id"], again["duplicate"]) == (told["id"], True)
    event = json.loads(client.packet('42["agent-thought"')[2:])
    assert (event[1]["thought"], event[1]["id"]) == ("by curl", told["id"])
    client.close()


def test_a_batch_is_judged_whole_and_published_in_order(api: Api) -> None:
    task, project = fresh("task"), fresh("project")
    events: list[dict[str, Any]] = [
        {"type": "task-update", "data": {"taskId": task, "status": "in_progress", "progress": 5}, "priority": 7},
        {"type": "project-event", "projectId": project, "event": "built", "data": [1, None],
         "alsoTo": [f"task:{task}"]}]
    wrong = api.call("POST", "/publish/batch", {"events": [*events, {"type": "task-update", "data": {"taskId": task}}]})
    assert wrong.status == 422
    assert "events.2" in wrong.json()["detail"]
    assert api.get(f"/rooms/task:{task}/history")["seq"] == 0
    for duplicate in (False, True):
        told = api.call("POST", "/publish/batch", {"events": events}, headers={"Idempotency-Key": task}).json()
        assert [receipt["duplicate"] for receipt in told["receipts"]] == [duplicate, duplicate]
    kept = api.get(f"/rooms/task:{task}/history?since=0")
    assert [event["event"] for event in kept["events"]] == ["task-update", "built"]
    assert kept["events"][1]["data"] == [1, None]


@pytest.mark.parametrize(("body", "status"), [
    (b"{", 400), (b"\xff", 400), (b"[" * 100_000, 400), (b'{"type": NaN}', 400), ([], 422), (7, 422), ({}, 422),
    ({"type": "agent-thought"}, 422), ({"type": "agent-thought", "data": {"agentId": "a"}}, 422),
    ({"type": "agent-thought", "data": {"agentId": "a", "thought": "b"}, "colour": 1}, 422),
    ({"type": "agent-thought", "data": {"agentId": "a", "thought": "b"}, "priority": 11}, 422),
    ({"type": "agent-thought", "data": {"agentId": "a", "thought": "b"}, "alsoTo": ["nowhere"]}, 422),
    ({"type": "project-event", "projectId": "p", "event": "shed"}, 422), ({"type": ["x"]}, 422),
    ({"type": "agent-thought", "data": {"agentId": "a", "thought": "x" * 300_000}}, 422),
    (b" " * 5_000_000, 413),
])
def test_wrong_bodies_are_told(api: Api, body: object, status: int) -> None:
    assert api.call("POST", "/publish", body).status == status


def test_errors_name_the_fields(api: Api) -> None:
    told = api.call("POST", "/publish", {"type": "task-update", "data": {"taskId": "t", "status": "asleep"}}).json()
    assert told["code"] == "bad_payload"
    assert "status" in told["fields"]["data"]


def test_methods_paths_and_types(api: Api) -> None:
    wrong = api.call("PUT", "/publish", {})
    assert wrong.status == 405
    assert "POST" in wrong.headers["allow"]
    assert api.call("GET", "/nowhere").status == 404
    assert api.call("POST", "/publish", b"a=1", headers={"Content-Type": "text/plain"}).status == 415
    assert api.call("GET", "/stats?colour=red").status in (200, 422)
    assert api.call("GET", "/rooms?colour=red").status == 422
    assert api.call("GET", "/rooms/nowhere/history").status == 422
    page = http(f"{api.server.url}/nowhere-else")
    assert "problem" not in page.headers["content-type"], "the host application keeps its own pages"


# -- history


def test_history_in_pages_both_ways(api: Api) -> None:
    agent = fresh("agent") + "/a//b"
    for number in range(7):
        api.thought(agent, str(number))
    for way, expected in (("since=0&limit=3", list("0123456")), ("limit=3", list("6543210"))):
        path, texts = f"/rooms/agent:{agent}/history?{way}", []
        while path:
            page = api.get(path)
            texts += [event["data"]["thought"] for event in page["events"]]
            path = (page["next"] or "").removeprefix("/api/v1")
        assert texts == expected
    between = api.get(f"/rooms/agent:{agent}/history?since=2&before=6&limit=2")
    assert [event["seq"] for event in between["events"]] == [3, 4]
    rest = api.get(between["next"].removeprefix("/api/v1"))
    assert ([event["seq"] for event in rest["events"]], rest["next"]) == ([5], None)
    assert api.call("GET", f"/rooms/agent:{agent}/history?epoch=other").status == 404


def test_history_is_not_sent_again_until_something_came(api: Api) -> None:
    agent = fresh("agent")
    api.thought(agent)
    path = f"/rooms/agent:{agent}/history"
    tag = api.call("GET", path).headers["etag"]
    unchanged = api.call("GET", path, headers={"If-None-Match": tag})
    assert (unchanged.status, unchanged.body) == (304, b"")
    api.thought(agent)
    changed = api.call("GET", path, headers={"If-None-Match": tag})
    assert (changed.status, changed.headers["etag"] != tag) == (200, True)


def test_gzip_when_asked(api: Api) -> None:
    agent = fresh("agent")
    api.thought(agent, "long " * 1000)
    path = f"/rooms/agent:{agent}/history"
    plain = api.call("GET", path)
    assert "content-encoding" not in plain.headers
    packed = api.call("GET", path, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["vary"]
    assert json.loads(gzip.decompress(packed.body)) == plain.json()


# -- who is there


def test_rooms_connections_and_sessions_of_both_workers(api: Api) -> None:
    agents = [fresh("agent") for _ in range(3)]
    clients = [raw(api.server, agent) for agent in agents for _ in range(4)]
    rooms = {room["room"]: room["connections"] for room in api.get("/rooms?kind=agent&limit=1000")["rooms"]}
    assert [rooms[f"agent:{agent}"] for agent in agents] == [4, 4, 4]
    room = f"agent:{agents[0]}"
    who = api.get(f"/rooms/{room}/presence", key="publisher")
    assert (who["watched"], who["users"], who["connections"], len(who["members"])) == (True, 4, 4, 4)
    assert api.get(f"/rooms/agent:{fresh('agent')}/presence")["watched"] is False
    for what, key in (("connections", "sid"), ("sessions", "session")):
        seen, path = [], f"/{what}?room={room}&limit=3"
        after = ""
        while after is not None:
            page = api.get(f"{path}&after={after}")
            assert page["missing"] == []
            seen += [one[key] for one in page[what]]
            after = page["next"]
        assert len(seen) == len(set(seen)) == 4
    held = api.get(f"/sessions?room={room}")["sessions"][0]
    assert held["positions"][room]["seq"] == 0
    for client in clients:
        client.close()


def test_stats_add_up(api: Api) -> None:
    told = api.get("/stats")
    assert told["mode"] == "normal"
    assert told["cluster"]["workers"] == 2


def test_throwing_out_by_user_session_and_connection(api: Api) -> None:
    agent = fresh("agent")
    for field, key in (("userId", "userId"), ("session", "session"), ("sid", "sid")):
        clients = [raw(api.server, agent) for _ in range(4)]
        found = api.get(f"/sessions?room=agent:{agent}")["sessions"]
        assert len(found) == 4
        for one in found:
            assert api.call("POST", "/disconnect", {field: one[key], "reason": "enough"}).json()["disconnected"] == 1
        for client in clients:
            assert client.close_code() == 4502
        wait_until(lambda: not api.get(f"/rooms/agent:{agent}/presence")["watched"], "nobody left")
    assert api.call("POST", "/disconnect", {"userId": "nobody"}).json()["disconnected"] == 0
    assert api.call("POST", "/disconnect", {"userId": "a", "sid": "b"}).status == 422


@pytest.mark.node
def test_who_was_thrown_out_does_not_come_back_by_itself(api: Api, fleet: Fleet) -> None:
    agent = fresh("agent")
    client = fleet.npm(api.server)
    client.subscribe("agent", agent)
    [found] = api.get(f"/sessions?room=agent:{agent}")["sessions"]
    api.call("POST", "/disconnect", {"session": found["session"]})
    [left] = client.wait_for("disconnect")
    assert left.args[0] == "io server disconnect"


# -- critical events


def test_a_delivery_is_waited_for(api: Api) -> None:
    project = fresh("project")
    client = RawSocket(api.server)
    assert client.request(json.dumps(["subscribe-project", project]))["ok"]
    id = api.call("POST", "/publish", {"type": "project-event", "projectId": project, "event": "deployed",
                                       "data": {}, "critical": True}).json()["id"]
    assert json.loads(client.packet('42["deployed"')[2:])[1]["id"] == id
    pending = api.get(f"/deliveries/{id}", key="publisher")
    assert (pending["state"], [user["attempts"] for user in pending["users"]]) == ("pending", [1])
    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(api.get, f"/deliveries/{id}?wait=30", key="reader")
        assert client.request(json.dumps(["ack-event", id]))["ok"]
        assert waited.result(60)["state"] == "acked"
    assert api.get("/deliveries/0?wait=1")["state"] == "unknown"
    client.close()


def test_dead_letters_are_listed_requeued_and_discarded() -> None:
    project, env = fresh("project"), {"WSAPP_API_KEYS": SETTING, "WSAPP_CRITICAL_ATTEMPTS": "1",
                                      "WSAPP_CRITICAL_FIRST": "0.2"}
    with Server(workers=2, env=env) as server:
        api = Api(server)
        clients = [RawSocket(server) for _ in range(3)]
        for client in clients:
            assert client.request(json.dumps(["subscribe-project", project]))["ok"]
        id = server.emitter.broadcast_project_event(project, "deployed", {"n": 1}, critical=True).id
        wait_until(lambda: len(api.get("/dead-letters")["deadLetters"]) == 3, "nobody acknowledges")
        first = api.get("/dead-letters?limit=2")
        rest = api.call("GET", "/dead-letters?" + urlencode({"after": first["next"]})).json()
        letters = [*first["deadLetters"], *rest["deadLetters"]]
        assert rest["next"] is None
        assert [(one["id"], one["event"], one["data"]) for one in letters] == [(id, "deployed", {"n": 1})] * 3
        assert len({one["userId"] for one in letters}) == 3
        assert api.get(f"/deliveries/{id}")["state"] == "dead"
        assert api.call("POST", "/dead-letters/discard", {"id": id, "userId": letters[0]["userId"]}).status == 200
        assert api.call("POST", "/dead-letters/requeue", {"id": id, "userId": letters[1]["userId"]}).status == 200
        assert api.call("POST", "/dead-letters/requeue", {"id": id, "userId": "nobody"}).status == 404
        wait_until(lambda: len(api.get("/dead-letters")["deadLetters"]) == 2, "the requeued one died again")
        assert api.call("POST", "/dead-letters/requeue", {"all": True}).json() == {"requeued": 2}
        assert api.call("GET", "/dead-letters", key="publisher").status == 403
        for client in clients:
            client.close()


def test_a_dead_worker_is_told_as_missing_or_gone() -> None:
    with Server(workers=2, env={"WSAPP_API_KEYS": SETTING, "WSAPP_HEARTBEAT": "0.3"}) as server:
        api = Api(server)
        server.kill_worker(server.worker_pids()[0])
        assert api.call("GET", "/rooms").status == 200
        wait_until(lambda: len(server.worker_pids()) == 2 and not api.get("/rooms")["missing"], "whole again")


def test_redis_away(api: Api) -> None:
    with Server(workers=1, env={"WSAPP_API_KEYS": SETTING}) as server:
        lone = Api(server)
        agent = fresh("agent")
        assert lone.thought(agent).status == 200
        assert server.valkey is not None
        server.valkey.kill()
        queued = lone.thought(agent)
        assert (queued.status, queued.json()["status"]) == (202, "queued")
        away = lone.call("GET", f"/rooms/agent:{agent}/history")
        assert (away.status, away.json()["retryable"]) == (503, True)
        assert away.headers["retry-after"]


# -- documents


def test_the_documents_are_served_and_valid(api: Api) -> None:
    from openapi_spec_validator import validate

    validate(api.document)
    assert http(f"{api.server.url}/api/v1/asyncapi.json").json()["asyncapi"] == "3.0.0"


@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(api: Api, tmp_path: Any) -> None:
    """Bounded; what it can send is made from the served document."""
    report = tmp_path / "report.txt"
    # Nothing is ever acknowledged here: no request shall wait for it.
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"query.wait" = 0\n')
    with report.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{api.server.url}/api/v1/openapi.json",
             "--url", f"{api.server.url}/api/v1", "-H", f"Authorization: Bearer {KEYS['all'][1]}",
             "--exclude-path", "/stream", "--max-examples", "12", "--seed", "1", "--no-color",
             "--exclude-checks", "ignored_auth"],
            stdout=out, stderr=out, timeout=240, check=False, cwd=tmp_path)
    assert done.returncode == 0, report.read_text()[-12000:]
