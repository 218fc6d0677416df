"""`socketio.test_client(app)` and Flask's `app.test_client()`: an application's tests need no server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, request, session
from flask_socketio import ConnectionRefusedError as Refused
from flask_socketio import disconnect as disconnect_client
from flask_socketio import emit, join_room, send

from tests.valkey import Valkey
from wsapp.errors import PayloadError
from wsapp.server import SocketServer


class Shop:
    """Somebody's application."""

    def __init__(self, **settings: Any) -> None:
        self.app = Flask("shop")
        self.app.secret_key = "k"
        self.server = SocketServer(self.app, **settings)
        self.socketio = self.server.socketio
        self.reasons: list[str] = []
        self.app.add_url_rule("/login", "login", self._login)
        self.app.add_url_rule("/publish", "publish", self._publish)
        on = self.socketio.on
        on("connect")(self._connect)
        on("disconnect")(self.reasons.append)
        on("echo")(lambda *args: args)
        on("who")(lambda: [session.get("user"), request.args.get("q"), request.headers.get("X-A")])
        on("join")(join_room)
        on("message")(lambda text: send(text.upper()))
        on("json")(lambda told: send(told, json=True))
        on("bytes")(lambda data: emit("bytes", {"twice": data * 2}))
        on("leave")(lambda: disconnect_client())
        on("echo", namespace="/chat")(lambda told: told)

    @staticmethod
    def _connect(auth: Any) -> None:
        if auth == {"token": "wrong"}:
            raise Refused("not you")
        emit("welcome", auth)

    @staticmethod
    def _login() -> str:
        session["user"] = "ann"
        return "ok"

    def _publish(self) -> dict[str, Any]:
        receipt = self.server.broadcast_agent_thought({"agentId": "a", "thought": "from a view"})
        return {"status": str(receipt.status)}

    def client(self, *args: Any, **options: Any) -> Any:
        return self.socketio.test_client(self.app, *args, **options)


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop(redis_url="", max_events_per_sec=1000)
    yield made
    made.server.shutdown()


def test_as_in_flask_socketio(shop: Shop) -> None:
    client = shop.client()
    assert client.is_connected()
    assert client.get_received() == [{"name": "welcome", "args": [], "namespace": "/"}]
    assert client.session["recovered"] is False
    assert client.emit("echo", 1, callback=True) == 1
    assert client.emit("echo", 1, {"b": 2}, callback=True) == [1, {"b": 2}]
    assert client.emit("echo", 1) is None
    client.send("hello")
    client.send({"a": 1}, json=True)
    client.emit("bytes", b"\x00\xff")
    assert [(event["name"], event["args"]) for event in client.get_received()] == [
        ("message", "HELLO"), ("json", {"a": 1}), ("bytes", [{"twice": b"\x00\xff\x00\xff"}])]
    assert client.get_received() == []


def test_what_a_handler_raises_is_raised_in_the_test(shop: Shop) -> None:
    shop.socketio.on("fail")(lambda: 1 / 0)
    shop.socketio.on("unwritable")(lambda: object())
    one, two = shop.client(), shop.client()
    for client in (one, two, one):
        with pytest.raises(ZeroDivisionError):
            client.emit("fail")
    with pytest.raises(PayloadError, match="not JSON"):
        one.emit("unwritable", callback=True)
    assert two.emit("echo", 1, callback=True) == 1


def test_namespaces(shop: Shop) -> None:
    client = shop.client(namespace="/chat")
    assert client.is_connected("/chat") and not client.is_connected()
    assert client.emit("echo", 5, callback=True, namespace="/chat") == 5
    client.connect()
    assert client.is_connected()
    client.disconnect("/chat")
    assert not client.is_connected("/chat") and client.is_connected()
    with pytest.raises(RuntimeError, match="not connected"):
        client.emit("echo", 1, namespace="/chat")
    client.connect("/nowhere")
    assert not client.is_connected("/nowhere")
    assert client.refused == {"message": "Invalid namespace"}


def test_who_connects(shop: Shop) -> None:
    http = shop.app.test_client()
    http.get("/login")
    client = shop.client(query_string="?q=7", headers={"X-A": "b"}, flask_test_client=http)
    assert client.emit("who", callback=True) == ["ann", "7", "b"]
    refused = shop.client(auth={"token": "wrong"})
    assert not refused.is_connected()
    assert refused.refused == {"message": "not you"}
    with pytest.raises(RuntimeError, match=r"not connected.*not you"):
        refused.get_received()


def test_rooms_and_broadcasts_of_the_application(shop: Shop) -> None:
    one, two = shop.client(), shop.client()
    one.emit("join", "lobby")
    shop.socketio.emit("news", 1, to="lobby")
    shop.socketio.emit("all", 2)
    assert [event["name"] for event in one.get_received()] == ["welcome", "news", "all"]
    assert [event["name"] for event in two.get_received()] == ["welcome", "all"]


def test_the_end_of_a_connection(shop: Shop) -> None:
    client = shop.client()
    client.disconnect()
    assert shop.reasons == ["client disconnect"]
    client.connect()
    client.emit("leave")
    assert not client.is_connected()
    assert shop.reasons == ["client disconnect", "server disconnect"]
    client.connect()
    assert client.emit("echo", 1, callback=True) == 1


def test_subscriptions_and_broadcasts_of_wsapp(shop: Shop) -> None:
    client = shop.client()
    assert client.emit("subscribe-agent", "a", callback=True)["ok"] is True
    shop.server.broadcast_agent_thought({"agentId": "a", "thought": "one"})
    assert client.wait_for("agent-thought")["args"][0]["thought"] == "one"
    assert shop.app.test_client().get("/publish").json == {"status": "accepted"}
    received = client.get_received()
    assert [event["args"][0]["thought"] for event in received if event["name"] == "agent-thought"] == ["from a view"]
    for number in range(40):  # more than one payload of long polling may have
        shop.server.broadcast_project_event("p", "built", {"n": number}, also_to=["agent:a"])
    got = [event["args"][0]["n"] for event in client.get_received() if event["name"] == "built"]
    assert got == list(range(40))


def test_waiting_in_vain_says_what_came(shop: Shop) -> None:
    with pytest.raises(TimeoutError, match=r"no event 'thunder' within 0\.05 s.*welcome"):
        shop.client().wait_for("thunder", timeout_s=0.05)


def test_a_server_that_takes_nobody_in(shop: Shop) -> None:
    shop.server.start()
    shop.server.engine.draining = True
    with pytest.raises(RuntimeError, match=r"503.*restarting"):
        shop.client()


def test_flasks_client_alone_starts_the_server(shop: Shop) -> None:
    http = shop.app.test_client()
    assert http.get("/readyz").json["status"] == "ready"
    assert http.get("/publish").json == {"status": "accepted"}


def test_over_a_real_redis_in_this_unpatched_process() -> None:
    """Records come on a thread there."""
    with Valkey() as valkey:
        shop, other = Shop(redis_url=valkey.url), Shop(redis_url=valkey.url)
        try:
            client, elsewhere = shop.client(), other.client()
            for each in (client, elsewhere):
                assert each.emit("subscribe-agent", "a", callback=True)["ok"] is True
                each.emit("join", "lobby")
            shop.server.broadcast_agent_thought({"agentId": "a", "thought": "one"})
            shop.socketio.emit("news", 1, to="lobby")
            for each in (client, elsewhere):
                assert each.wait_for("agent-thought")["args"][0]["thought"] == "one"
                assert each.wait_for("news")["args"] == [1]
        finally:
            shop.server.shutdown()
            other.server.shutdown()
