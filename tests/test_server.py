"""SocketServer: put together before or after the handlers, beside a host's own routes, once per app."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from tests.blueprints.conftest import OURS
from tests.polling import PollingClient
from tests.runtime.world import eventually
from tests.valkey import Valkey
from wsapp import server as server_module
from wsapp.core.ports import HistoryQuery
from wsapp.errors import BrokerUnavailable, PayloadError, SettingsError
from wsapp.runtime.event_blueprint import EventBlueprint
from wsapp.server import MOST_SHARED, SocketServer, slim

THOUGHT = {"agentId": "a", "thought": "x"}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)


@pytest.fixture
def started() -> Iterator[list[SocketServer]]:
    """Servers to be ended."""
    servers: list[SocketServer] = []
    yield servers
    for server in servers:
        server.shutdown()


def start(servers: list[SocketServer], app: Flask | None = None, **settings: Any) -> tuple[Flask, SocketServer]:
    app = app or Flask("host")
    server = SocketServer(app, **settings)
    servers.append(server)
    server.start()
    return app, server


def connected(app: Flask) -> PollingClient:
    client = PollingClient(app)
    client.connect()
    return client


@pytest.mark.parametrize("method", ["init_app", "initialize"])
def test_handlers_before_and_after_init_app(started: list[SocketServer], method: str) -> None:
    app, server = Flask("host"), SocketServer()
    feature = EventBlueprint("feature", __name__)
    feature.event("blue")(lambda _call, payload: {"blue": payload})
    server.register_blueprint(feature)

    @server.socketio.on("before")
    def before(data: Any) -> Any:
        return ["before", data]

    getattr(server, method)(app)
    started.append(server)

    @server.socketio.on("after")
    def after(data: Any) -> Any:
        return ["after", data]

    late = EventBlueprint("late", __name__)
    late.event("green")(lambda _call, payload: {"green": payload})
    server.register_blueprint(late)
    server.start()
    client = connected(app)
    assert client.ask("before", 1) == ["before", 1]
    assert client.ask("after", 2) == ["after", 2]
    assert client.ask("blue", 3) == {"ok": True, "blue": 3}
    assert client.ask("green", 4) == {"ok": True, "green": 4}
    assert app.extensions["wsapp"] is server


def test_a_server_has_one_app() -> None:
    server = SocketServer(Flask("one"))
    with pytest.raises(RuntimeError, match="one SocketServer per app"):
        server.init_app(Flask("two"))


def test_two_apps_in_one_process_know_nothing_of_each_other(started: list[SocketServer]) -> None:
    (one, first), (two, second) = start(started), start(started)
    watching = [connected(one), connected(two)]
    for client in watching:
        client.ask("subscribe-agent", "a")
    first.broadcast_agent_thought(THOUGHT)
    second.socketio.emit("news", 1)
    assert [len(client.of("agent-thought")) for client in watching] == [1, 0]
    assert [len(client.of("news")) for client in watching] == [0, 1]
    assert first.token != second.token


def test_arguments_before_config_before_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSAPP_MAX_ROOMS", "1")
    monkeypatch.setenv("WSAPP_QUEUE_ITEMS", "11")
    monkeypatch.setenv("PING_INTERVAL", "1000")
    app = Flask("host")
    app.config.update(WSAPP_MAX_ROOMS=2, WSAPP_QUEUE_ITEMS=22)
    server = SocketServer(max_rooms=3)
    server.init_app(app, ping_timeout=4.0)
    settings = server.settings
    assert (settings.max_rooms, settings.queue_items, settings.ping_interval, settings.ping_timeout) == (3, 22, 1, 4)


def test_unknown_settings_are_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="max_rooms"):
        SocketServer(Flask("host"), max_room=3)
    app = Flask("host")
    app.config["WSAPP_MAX_ROOM"] = 3
    with pytest.raises(SettingsError, match="WSAPP_MAX_ROOMS"):
        SocketServer(app)


def test_another_worker_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/27")
    monkeypatch.delitem(sys.modules, "wsapp.transport.worker", raising=False)
    with pytest.raises(RuntimeError, match=r"wsapp\.transport\.worker\.Worker"):
        SocketServer(Flask("host"))


def test_a_host_keeps_its_own_front_page_and_routes(started: list[SocketServer]) -> None:
    app = Flask("host")
    app.get("/")(lambda: "mine")
    app, _ = start(started, app)
    app_client = app.test_client()
    assert app_client.get("/").text == "mine"
    assert app_client.get("/healthz").status_code == 200
    assert app_client.get("/live").mimetype == "text/html"


def test_without_one_it_gets_the_live_page(started: list[SocketServer]) -> None:
    app, _ = start(started)
    assert app.test_client().get("/").mimetype == "text/html"


def test_the_metrics_have_the_promised_names_and_count(started: list[SocketServer]) -> None:
    app, server = start(started)
    client = connected(app)
    client.ask("subscribe-agent", "a")
    server.broadcast_agent_thought(THOUGHT)
    facts = server.get_metrics()
    promised = {"totalConnections", "activeConnections", "peakConnections", "messagesSent", "messagesReceived",
                "averageLatency"}
    assert promised <= facts.keys()
    assert promised <= facts["worker"].keys()
    assert promised <= facts["cluster"].keys()
    assert (facts["totalConnections"], facts["activeConnections"], facts["eventsDelivered"]) == (1, 1, 1)
    assert facts["cluster"]["workers"] == 1
    client.send("1")
    eventually(lambda: server.get_metrics()["activeConnections"] == 0)
    assert server.get_metrics()["peakConnections"] == 1


def test_active_connections_are_snapshots(started: list[SocketServer]) -> None:
    app, server = start(started)
    server.identify(lambda auth, _environ: (auth or {}).get("name"))
    client = PollingClient(app)
    client.connect({"name": "ann"})
    client.ask("subscribe-task", "t")
    [connection] = server.get_active_connections()
    assert (connection.user_id, connection.rooms, connection.sid) == ("ann", ("task:t",), client.hello["sid"])
    server.connections.session(connection.sid).last_seen -= 301  # type: ignore[union-attr]
    assert server.get_active_connections() == []


def test_the_three_broadcasts_reach_their_rooms(started: list[SocketServer]) -> None:
    app, server = start(started)
    client = connected(app)
    for kind in ("agent", "task", "project"):
        client.ask(f"subscribe-{kind}", "x")
    server.broadcast_agent_thought({"agentId": "x", "thought": "t"})
    server.broadcast_task_update({"taskId": "x", "status": "completed", "progress": 100})
    receipt = server.broadcast_project_event("x", "deployed", {"to": "prod"}, also_to=["task:x"])
    assert receipt.status == "accepted"
    assert [place.room for place in receipt.places] == ["project:x", "task:x"]
    client.ask("nobody")
    assert [event[0] for event in client.events[1:]] == ["agent-thought", "task-update", "deployed"]
    with pytest.raises(PayloadError):
        server.broadcast_task_update({"taskId": "x", "status": "nearly"})


def test_a_drain_tells_closes_and_takes_nobody_in(started: list[SocketServer]) -> None:
    app, server = start(started)
    client = connected(app)
    server.drain(1.0)
    server.drain(1.0)
    assert client.until('42["server-shutdown"')
    with pytest.raises(AssertionError, match="Session ID unknown"):
        client.next()
    refused = app.test_client().get("/socket.io/?EIO=4&transport=polling")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert server.connections.get_connection_count() == 0


def test_shutting_down_twice_or_before_the_start_is_fine() -> None:
    server = SocketServer(Flask("host"))
    server.shutdown()
    server.shutdown()


def test_away_and_back_is_told_and_recorded(started: list[SocketServer]) -> None:
    """With a real server that dies and comes back.  (Its live records need a patched worker: tests/fault.)"""
    with Valkey() as valkey:
        app, server = start(started, redis_url=valkey.url)
        client = connected(app)
        assert server.broadcast_agent_thought({"agentId": "a", "thought": "0"}).status == "accepted"
        valkey.kill()
        queued = server.broadcast_agent_thought({"agentId": "a", "thought": "1"})
        assert (queued.status, server.mode) == ("queued", "degraded")
        assert "see that it runs" in str(server.not_ready())
        valkey.start(valkey.port)
        eventually(lambda: server.mode == "normal", within=10)
        eventually(lambda: server.not_ready() is None, within=10)
        accepted = server.broadcast_agent_thought({"agentId": "a", "thought": "2"})
        assert [mode["mode"] for mode in client.of("mode")] == ["degraded", "normal"]
        [page] = server.hub.backend.broker.read([HistoryQuery("agent:a")])
        assert [one.id for one in page.publications] == [queued.id, accepted.id]


def test_the_cluster_numbers_are_none_while_the_broker_is_away(started: list[SocketServer],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> dict[str, dict[str, object]]:
        raise BrokerUnavailable("away")

    _, server = start(started)
    monkeypatch.setattr(server.hub.backend.cluster, "workers", away)
    assert server.get_metrics()["cluster"] is None


def test_what_clients_make_up_is_not_kept_for_ever() -> None:
    """Interned strings are, on Python 3.12.0 to 3.12.5: a kilobyte for each connection."""
    first, second = slim({"HTTP_A" * 2: "b" * 3}), slim({"HTTP_A" * 2: "b" * 3})
    assert next(iter(first)) is next(iter(second)) and first["HTTP_AHTTP_A"] is second["HTTP_AHTTP_A"]
    for number in range(2 * MOST_SHARED):
        slim({f"HTTP_{number}": f"value {number}"})
    assert len(server_module._shared) == MOST_SHARED


def test_an_environ_is_kept_without_its_streams() -> None:
    kept = slim({"HTTP_HOST": "h", "wsgi.input": object(), "gunicorn.socket": object(), "n": 1})
    assert kept == {"HTTP_HOST": "h", "n": 1}


def test_the_ledger_explains_an_event_when_it_is_kept(started: list[SocketServer]) -> None:
    app, server = start(started, ledger=True)
    client = connected(app)
    client.ask("subscribe-agent", "a")
    receipt = server.broadcast_agent_thought(THOUGHT)
    [connection] = server.get_active_connections()
    told = server.explain(connection.session_id, receipt.id)
    assert told == {"id": receipt.id, "fate": "delivered", "room": "agent:a", "seq": 1, "why": ""}
    assert server.explain(connection.session_id, "never")["fate"] == "unknown"


def test_without_a_ledger_nothing_is_explained(started: list[SocketServer]) -> None:
    _, server = start(started)
    with pytest.raises(RuntimeError, match="WSAPP_LEDGER"):
        server.explain("session", "id")


def test_a_worker_that_is_not_ready_says_so_in_the_log(started: list[SocketServer],
                                                       caplog: pytest.LogCaptureFixture) -> None:
    _, server = start(started, heartbeat=0.05)
    server._links.lost(BrokerUnavailable("it sleeps"))
    server._beat()
    server._links.lost(BrokerUnavailable("it sleeps"))
    server._beat()
    assert [line for line in caplog.messages if line.startswith("not ready")] == [
        "not ready: Redis is away: it sleeps"], "once a minute, not with each beat"
