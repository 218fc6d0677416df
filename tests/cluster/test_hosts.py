"""Other people's code around the server: host apps, stock Flask-SocketIO processes, two apps in one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import psutil
import pytest
import redis
from flask_socketio import SocketIO

from tests.clients.fleet import Fleet, fresh, publish, spread, thoughts
from tests.harness import OURS, ROOT, Server, http, wait_until
from tests.valkey import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.node]


def test_own_events_and_hooks_of_a_host_app(host: Server, fleet: Fleet) -> None:
    client, other = fleet.npm(host), fleet.python(host)
    assert client.request("host-echo", {"n": 1})["echo"] == {"n": 1}
    assert client.request("host-late", "news")["late"] == "news"
    for each in (client, other):
        assert each.wait_for("host-news")[0].args == ({"of": "news"},)
    before = host.get("/calls").json()
    assert "connect" in before
    client.subscribe("agent", fresh("agent"))
    client.close()
    wait_until(lambda: host.get("/calls").json()[len(before):] == ["subscribe", "disconnect"], "both hooks called")


def test_publishing_from_a_view(host: Server, fleet: Fleet) -> None:
    agent = fresh("agent")
    client = fleet.npm(host)
    client.subscribe("agent", agent)
    receipt = host.post("/publish", {"thought": {"agentId": agent, "thought": "from a view"}}).json()
    assert receipt["status"] == "accepted"
    client.wait_ids([receipt["id"]])


def test_a_wrong_payload_in_a_view_is_an_error_there(host: Server) -> None:
    assert host.post("/publish", {"thought": {"agentId": "a"}}).status == 500


def test_metrics_of_a_host_app(host: Server, fleet: Fleet) -> None:
    before = host.get("/state").json()
    fleet.npm(host)
    after = host.get("/state").json()
    assert after["connections"] == before["connections"] + 1


def test_stock_flask_socketio_reaches_clients(cluster: Server, fleet: Fleet) -> None:
    """From another process by `message_queue`; an event that is no JSON is not relayed and throws nobody out."""
    clients = [fleet.npm(cluster), fleet.npm(cluster), fleet.python(cluster), fleet.npm(cluster, "polling")]
    agent = fresh("agent")
    clients[0].subscribe("agent", agent)
    stock = SocketIO(message_queue=cluster.redis_url)
    stock.emit("stock-news", {"x": float("nan")})
    stock.emit("stock-news", {"n": 1})
    stock.emit("stock-room", {"n": 2}, to=f"agent:{agent}")
    stock.emit("stock-end", b"\x00\x01")
    for client in clients:
        client.wait_for("stock-end")
        assert [seen.args for seen in client.all("stock-news")] == [({"n": 1},)]
        assert len(client.all("stock-room")) == (1 if client is clients[0] else 0)
        assert not client.all("disconnect")


def test_two_apps_in_one_process(fleet: Fleet) -> None:
    with Server(1, app="tests.apps.two:first") as first, Server(1, app="tests.apps.two:second") as second:
        one, two = fleet.npm(first), fleet.npm(second)
        assert one.request("only-first", 1) == {"first": 1}
        assert two.request("only-second", 2) == {"second": 2}
        assert one.request("only-second", 3)["error"]["code"] == "unknown_event"
        assert two.request("only-first", 4)["error"]["code"] == "unknown_event"


def test_without_redis_url_all_workers_share_a_private_valkey(fleet: Fleet) -> None:
    """Started and stopped with the server, said in the log, found by an Emitter on the same machine."""
    agent = fresh("agent")
    with Server(2, redis_url="") as server:
        clients = fleet.many(server, "npm", "websocket", 12)
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        assert set(spread(clients, server)) == set(server.worker_pids())
        ids = publish(server, agent, 3)
        for client in clients:
            client.wait_ids(ids)
        assert "private Valkey" in server.log_tail(10_000)
        private = server.companions()
        assert len(private) == 1
        assert server.terminate() == 0
        wait_until(lambda: not psutil.pid_exists(private[0]), "the private Valkey is gone")


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_disconnect_handlers_get_the_reasons_of_stock(fleet: Fleet, transport: str) -> None:
    """Also when the client's packet still waits for its turn while the transport ends."""
    with Server(1, app="tests.apps.host:app", env={"WSAPP_DRAIN_TIMEOUT": "2"}) as server:
        told: list[str] = []

        def end(how: str, why: str) -> None:
            client = fleet.npm(server, transport, reconnection=False)
            if how == "close late":
                client.emit("subscribe-agent", "slow")
            if how == "host":
                client.emit("host-disconnect")
            elif how == "drop":
                client.drop()
            elif how == "cut":
                client.cut()
            else:
                client.close()
            told.append(why)
            wait_until(lambda: server.get("/reasons").json() == told, f"{how}: {told}")

        end("close", "client disconnect")
        end("close late", "client disconnect")
        end("host", "server disconnect")
        # By engine.close() a polling client says that it leaves; a WebSocket just closes.
        end("drop", "transport close" if transport == "websocket" else "client disconnect")
        if transport == "websocket":
            end("cut", "transport close")


def test_a_host_with_our_routes_is_told_the_prefix_at_boot() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    done = subprocess.run([sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "tests.apps.own_routes:app"],
                          cwd=ROOT, timeout=60, capture_output=True, text=True, check=False,
                          env={**clean, "REDIS_URL": "redis://127.0.0.1:1", "WEBSOCKET_PORT": str(free_port())})
    assert done.returncode != 0
    assert "a route /healthz (health), and so has wsapp: move wsapp's routes with WSAPP_PREFIX=/wsapp" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mounted", [False, True])
def test_below_a_prefix_and_below_a_path(fleet: Fleet, mounted: bool) -> None:
    """All of ours moves, the page's URL in the log is right, and sockets work below SCRIPT_NAME."""
    script = "/app" if mounted else ""
    env = {"WSAPP_PREFIX": "/wsapp", "SCRIPT_NAME": script, "WSAPP_SOCKET_PATH": "live/sockets"}
    with Server(2, app="tests.apps.own_routes:app", env=env, ready_at=f"{script}/wsapp/readyz") as server:
        assert server.get(f"{script}/").text == server.get(f"{script}/healthz").text == "mine"
        page = re.search(r"the page is at (\S+)", server.log_tail())
        assert page
        assert page[1] == f"http://localhost:{server.port}{script}/wsapp/"
        assert "wsapp" in http(page[1]).text
        for transport in ("websocket", "polling", "upgrade"):
            client = fleet.npm(server, transport, path=f"{script}/live/sockets")
            assert client.request("subscribe-agent", "a")["ok"] is True
        moved = http(f"{server.url}{script}/away", headers={"X-Forwarded-Prefix": "/evil"})
        assert moved.text == "mine"  # nobody's word


def test_a_proxy_says_below_which_path_it_serves() -> None:
    env = {"WSAPP_TRUSTED_PROXIES": "1", "WSAPP_PREFIX": "/wsapp"}
    with Server(1, app="tests.apps.own_routes:app", env=env, ready_at="/wsapp/readyz") as server:
        told = http(f"{server.url}/wsapp/api/v1/openapi.json", headers={"X-Forwarded-Prefix": "/outside"}).json()
        assert told["servers"] == [{"url": "/outside/wsapp/api/v1"}]


def test_recovered_is_said_only_when_nothing_of_the_hosts_is_lost(host: Server, fleet: Fleet) -> None:
    """On two workers: `socket.recovered` speaks also of the host's rooms and session, `session.recovered` of ours."""
    plain, roomed, left, kept = clients = fleet.many(host, "npm", "websocket", 4)
    room, agent = fresh("lobby"), fresh("agent")
    for client in clients:
        client.subscribe("agent", agent)
        assert client.request("host-echo", 1)["echo"] == 1  # an event that changes nothing
    for client in (roomed, left):
        assert client.request("host-join", room) is True
    assert left.request("host-leave", room) is True
    assert kept.request("host-put", 7) is True
    with redis.Redis.from_url(host.redis_url) as store:
        for client in (roomed, kept):
            key = next(store.scan_iter(f"*{client.sessions[0]['sessionId']}*"))
            wait_until(lambda: any(b'"host"' in value for value in store.hvals(key)), "a mark")  # noqa: B023
    for client in clients:
        client.cut()
    publish(host, agent, 2)
    for client, lost in ((plain, None), (roomed, ["rooms"]), (left, None), (kept, ["session"])):
        told = client.wait_session(2)
        assert told["recovered"] is True
        assert told.get("notRestored") == lost
        assert client.recovered[-1] is (lost is None)
        assert (told["sessionId"] == client.sessions[0]["sessionId"]) is (lost is None)
        client.wait(lambda: len(thoughts(client, agent)) == 2, "what was missed")  # noqa: B023 - used at once
    assert roomed.request("host-join", room) is True
    before = len(roomed.sessions)
    roomed.cut()
    assert roomed.wait_session(before + 1)["notRestored"] == ["rooms"]
    roomed.cut()  # it has not joined again: nothing is lost any more
    assert "notRestored" not in roomed.wait_session(before + 2)
    assert roomed.recovered[-1] is True
