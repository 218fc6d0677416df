"""The AsyncAPI document against a real server's traffic: every event in both directions is driven once with a real
client, and everything that any client saw is held against its schema."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.clients.fleet import Fleet, fresh, publish
from tests.clients.raw_client import RawSocket
from tests.clients.recorder import Recorder
from tests.cluster.test_stream import Sse, reply_to
from tests.harness import Server, http, wait_until
from tests.tokens import GUARDED, mint

pytestmark = [pytest.mark.cluster, pytest.mark.node]

RIGHTS = {"*": ["read", "presence"]}
OF_CLIENT = {"connect", "disconnect", "upgrade", "connect_error"}


class Book:
    """The document, and which of its messages have been met."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._components = document["components"]
        self.messages: dict[str, Any] = self._components["messages"]
        self.met: set[str] = set()

    def check(self, name: str, payload: object) -> None:
        self.met.add(name)
        jsonschema.Draft7Validator({**self.messages[name]["payload"], "components": self._components}).validate(payload)

    def request(self, client: Recorder, name: str, payload: Any) -> Any:
        """Ask, and hold question and answer against the document."""
        told = client.request(name, payload)
        if told["ok"]:
            self.check(name, payload)
        self.check(f"{name}-ack", told)
        return told

    def read(self, client: Recorder) -> None:
        """Hold everything against it that a client was told."""
        for seen in client.seen:
            if seen.event in OF_CLIENT:
                continue
            name = seen.event if seen.event in self.messages else "project-event"
            if name == "project-event":
                assert seen.event == "deployed"
            self.check(name, seen.args[0] if seen.args else None)
            if len(seen.args) > 1 and "headers" in self.messages[name]:
                jsonschema.validate(seen.args[1], self._components["schemas"]["Meta"])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    env = {**GUARDED, "WSAPP_BEACON": "0.3", "MAX_EVENTS_PER_SEC": "5", "WSAPP_QUEUE_ITEMS": "5",
           "WSAPP_TOKEN_WARNING": "300", "WSAPP_DRAIN_TIMEOUT": "2"}
    with Server(1, app="tests.apps.guarded:app", env=env) as server:
        yield server


def test_everything_is_as_described(server: Server, fleet: Fleet) -> None:
    book = Book(http(f"{server.url}/api/v1/asyncapi.json").json())
    agent, task, project = fresh("agent"), fresh("task"), fresh("project")
    user, jti = fresh("user"), fresh("jti")
    auth = {"token": mint(user, 200.0, jti=jti, rooms=RIGHTS)}
    plain = fleet.npm(server, auth=auth)
    sdk = fleet.npm(server, auth=(connect := {"token": mint(rooms=RIGHTS), "wsapp": 1}))
    book.check("connect", connect)
    clients = [plain, sdk]
    requests(book, plain, agent, task, project)
    sdk.subscribe("agent", agent)
    published(server, clients, agent, task, project)
    acknowledged(book, server, plain, project)
    tokens(book, server, plain, user, jti, project)
    clients += [of_resumed(server, fleet, agent)]
    stream(book, server, project)
    away(server, sdk, agent)
    refused(book, server)
    server.terminate()
    sdk.wait_for("server-shutdown")
    for client in clients:
        book.read(client)
    assert book.messages.keys() - book.met == set()


def requests(book: Book, client: Recorder, agent: str, task: str, project: str) -> None:
    for name, payload in [
            ("subscribe-agent", agent), ("subscribe-task", {"id": task, "since": 0}),
            ("subscribe-task", {"id": task, "since": {"epoch": "another", "seq": 1}}),
            ("subscribe-project", {"id": project, "presence": True}), ("subscribe-agent", ""),
            ("subscribe-agent", ["l1", {"id": "l2", "since": 0}, {}]), ("unsubscribe-agent", ["l1", "l2", "l3"]),
            ("subscribe-agent", []),
            ("update-metadata", {"a": 1}), ("update-metadata", []),
            ("set-rate", {"rate": 5}), ("set-rate", {"rate": 0}), ("positions", None),
            ("history", {"room": f"agent:{agent}"}), ("history", {"room": "agent:not-mine"}),
            ("subscribe-agent", "gone"), ("unsubscribe-agent", {"id": "gone"}), ("unsubscribe-agent", "gone"),
            ("unsubscribe-task", "never"), ("unsubscribe-project", 7), ("nack-event", "nothing")]:
        book.request(client, name, payload)
    for kind in ("task", "project"):
        client.subscribe(kind, "gone")
        assert book.request(client, f"unsubscribe-{kind}", "gone")["ok"]


def published(server: Server, clients: list[Recorder], agent: str, task: str, project: str) -> None:
    """Over the rate and over the queue: arrays, batches and what was shed."""
    server.emitter.broadcast_task_update({"taskId": task, "status": "in_progress", "progress": 5})
    server.emitter.broadcast_project_event(project, "deployed", None)
    server.emitter.publish_many(("agent-thought", {"agentId": agent, "thought": str(number)}) for number in range(80))
    plain, sdk = clients
    for client in clients:
        client.wait_for("shed")
    plain.wait_for("task-update")
    plain.wait(lambda: any(isinstance(seen.args[0], list) for seen in plain.all("agent-thought")), "an array")
    sdk.wait_for("batch")
    sdk.wait_for("beacon")


def acknowledged(book: Book, server: Server, client: Recorder, project: str) -> None:
    id = server.emitter.broadcast_project_event(project, "deployed", {"n": 1}, critical=True).id
    client.wait(lambda: any(isinstance(seen.args[0], dict) and seen.args[0]["id"] == id
                            for seen in client.all("deployed")), "the critical one")
    assert book.request(client, "nack-event", id)["state"] == "pending"
    assert book.request(client, "ack-event", {"id": id})["ok"]
    assert not book.request(client, "ack-event", "nothing")["ok"]


def tokens(book: Book, server: Server, client: Recorder, user: str, jti: str, project: str) -> None:
    client.wait_for("token-expiring")
    assert not book.request(client, "refresh-token", "garbage")["ok"]
    newer = mint(user, 250.0, jti=jti, rooms={f"project:{project}": ["read"]})
    assert book.request(client, "refresh-token", {"token": newer})["lost"]
    client.wait_for("unsubscribed")
    server.post("/revoke", {"jti": jti})
    client.wait_for("session-closed")


def of_resumed(server: Server, fleet: Fleet, agent: str) -> Recorder:
    """A session that comes back, and one who comes into its room."""
    client = fleet.npm(server, auth={"token": mint(rooms=RIGHTS)})
    assert client.request("subscribe-agent", {"id": agent, "presence": True})["ok"]
    publish(server, agent, 1)
    client.drop()
    assert client.wait_session(2)["recovered"] is True
    fleet.npm(server, auth={"token": mint(fresh("user"), rooms=RIGHTS)}).subscribe("agent", agent)
    client.wait_for("presence")
    return client


def stream(book: Book, server: Server, project: str) -> None:
    bearer = {"Authorization": f"Bearer {mint(fresh('user'), rooms=RIGHTS)}"}
    with Sse(server, f"project:{project}", presence="true", headers=bearer) as opened:
        book.check("stream-session", opened.first())
        server.emitter.broadcast_project_event(project, "deployed", [1], critical=True)
        wanted = opened.take(1, "ack-wanted")[0].data
        book.check("ack-wanted", wanted)
        assert reply_to(server, "ack", {"id": wanted["id"]}, **bearer).status == 200


def away(server: Server, client: Recorder, agent: str) -> None:
    """A Redis that is away, and then back without what it had."""
    assert server.valkey is not None
    port = server.valkey.port
    server.valkey.kill()
    client.wait_for("mode")
    server.valkey.start(port)
    wait_until(server.ready, "Redis is back")
    deadline = time.monotonic() + 30
    while not client.all("resync") and time.monotonic() < deadline:
        publish(server, agent, 1)
        time.sleep(0.1)
    client.wait_for("resync")


def refused(book: Book, server: Server) -> None:
    raw = RawSocket(server, connect=False)
    raw.send('40{"token":"garbage"}')
    book.check("connect-error", json.loads(raw.packet("44")[2:])["data"])
    raw.close()
