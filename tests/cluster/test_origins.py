"""Cross-site WebSocket hijacking and DNS rebinding, as a browser would try them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import websocket

from tests.clients.fleet import Fleet
from tests.cluster.bystander import counted
from tests.harness import Server, http, wait_until
from tests.tokens import GUARDED, mint

pytestmark = [pytest.mark.cluster, pytest.mark.node]

OURS, EVIL = "https://app.example", "https://evil.example"


@pytest.fixture(scope="module")
def listed() -> Iterator[Server]:
    """One worker for the pages of one origin, under one name."""
    env = {**GUARDED, "WEBSOCKET_CORS_ORIGIN": OURS, "WSAPP_ALLOWED_HOSTS": "app.example,127.0.0.1"}
    with Server(1, app="tests.apps.guarded:app", env=env) as server:
        yield server


def upgraded(server: Server, origin: str, host: str | None = None, cookie: str | None = None) -> int:
    """The status of an opening handshake."""
    try:
        sock = websocket.create_connection(server.socket_url, origin=origin, timeout=20, cookie=cookie, host=host)
    except websocket.WebSocketBadStatusException as refused:
        return refused.status_code
    sock.close()
    return 101


def test_another_sites_page_is_refused_before_the_upgrade(listed: Server, fleet: Fleet) -> None:
    """The browser sends the victim's cookies along; neither they nor anything else gets a foreign page in."""
    cookie = f"session=victim; token={mint('victim')}"
    bystander = fleet.npm(listed, auth={"token": mint()})
    assert upgraded(listed, EVIL, cookie=cookie) == 403
    assert upgraded(listed, "null", cookie=cookie) == 403
    assert upgraded(listed, "https://app.example.evil.example") == 403
    assert upgraded(listed, "http://app.example") == 403
    for url in (listed.polling_url, f"{listed.polling_url}&sid=x"):
        refused = http(url, headers={"Origin": EVIL, "Cookie": cookie})
        assert refused.status == 403
        assert "access-control-allow-origin" not in refused.headers
    assert http(listed.polling_url, method="OPTIONS", headers={"Origin": EVIL}).status == 403
    assert upgraded(listed, OURS) == 101
    assert bystander.request("host-echo", 1) == 1


def test_even_the_right_page_needs_more_than_cookies(listed: Server) -> None:
    sock = websocket.create_connection(listed.socket_url, origin=OURS, timeout=20, cookie=f"token={mint('victim')}")
    sock.recv()
    sock.send("40")
    told = sock.recv()
    assert isinstance(told, str)
    assert json.loads(told[2:])["data"]["code"] == "token_missing"
    sock.close()


def test_a_name_that_is_not_served(listed: Server) -> None:
    assert upgraded(listed, OURS, host="evil.example") == 403
    refused = http(listed.polling_url, headers={"Host": "evil.example"})
    assert refused.status == 403
    assert "WSAPP_ALLOWED_HOSTS" in refused.json()["message"]
    assert http(listed.polling_url, headers={"Host": "app.example"}).status == 200
    stream = http(f"{listed.url}/api/v1/stream?rooms=agent:a", headers={"Host": "127.0.0.1", "Origin": EVIL})
    assert stream.status == 403
    lines = wait_until(lambda: [line for line in listed.log_tail().splitlines() if " refused: the " in line], "a line")
    assert any("host='evil.example' from '127.0.0.1'" in line for line in lines)
    assert counted(listed, "originsRefused") >= 3


def test_a_rebound_name_on_the_developers_machine(cluster: Server) -> None:
    """evil.example resolves to 127.0.0.1 by now: for the browser its page and this server are one origin."""
    host = f"evil.example:{cluster.port}"
    assert upgraded(cluster, f"http://{host}", host=host) == 403
    refused = http(cluster.polling_url, headers={"Host": host, "Origin": f"http://{host}"})
    assert refused.status == 403
    assert "rebinding" in refused.json()["message"]
    for host in (f"localhost:{cluster.port}", f"127.0.0.1:{cluster.port}"):
        assert upgraded(cluster, f"http://{host}", host=host) == 101


@pytest.mark.parametrize("path", ["/", "/live/app.js", "/metrics", "/api/v1/openapi.json", "/api/v1/stats",
                                  "/api/v1/stream?rooms=agent:a"])
def test_a_rebound_name_reads_nothing(cluster: Server, listed: Server, fleet: Fleet, path: str) -> None:
    """Its GETs are of the same origin to the browser, and carry no Origin: the Host is all that gives them away."""
    bystander = fleet.npm(cluster)
    for server, why in ((cluster, "rebinding"), (listed, "WSAPP_ALLOWED_HOSTS")):
        for host in (f"evil.example:{server.port}", "localhost.evil.example", "127.0.0.1.evil.example"):
            refused = http(f"{server.url}{path}", headers={"Host": host})
            assert (refused.status, why in refused.text) == (403, True), host
    if "stream" not in path:
        for host in (f"localhost:{cluster.port}", "127.0.0.1", "[::1]:3001"):
            assert http(f"{cluster.url}{path}", headers={"Host": host}).status != 403 or path == "/api/v1/stats"
    for path in ("/healthz", "/readyz"):  # a load balancer asks under any name, and learns nothing else
        assert http(f"{listed.url}{path}", headers={"Host": "whatever.example"}).status == 200
    bystander.subscribe("agent", "a")


def test_an_app_and_an_extension_resume_a_stream(fleet: Fleet) -> None:
    """Pages of other schemes; and the preflight of a stream that goes on where it was."""
    env = {**GUARDED, "WEBSOCKET_CORS_ORIGIN": "tauri://localhost,https://*.app.example"}
    with Server(1, app="tests.apps.guarded:app", env=env) as server:
        for origin, status in (("tauri://localhost", 101), ("https://a.app.example", 101), ("https://app.example", 403),
                               ("capacitor://localhost", 403)):
            assert upgraded(server, origin) == status, origin
        asked = http(f"{server.url}/api/v1/stream?rooms=agent:a", method="OPTIONS", headers={
            "Origin": "https://a.app.example", "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,cache-control,last-event-id"})
        assert asked.status == 204
        allowed = asked.headers["access-control-allow-headers"].lower()
        assert {"authorization", "cache-control", "last-event-id"} <= set(allowed.split(", "))


def test_any_origin_is_without_credentials(fleet: Fleet) -> None:
    with Server(1, app="tests.apps.guarded:app", env={**GUARDED, "WEBSOCKET_CORS_ORIGIN": "*"}) as server:
        answer = http(server.polling_url, headers={"Origin": EVIL})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert upgraded(server, EVIL) == 101


def test_a_front_end_of_its_own_does_not_lock_out_the_servers_own_pages(fleet: Fleet) -> None:
    """websocket-client, under python-socketio, sends the origin of the URL; a browser that of the live page."""
    with Server(1, env={"WEBSOCKET_CORS_ORIGIN": "http://localhost:5173"}) as server:
        for transport in ("websocket", "polling"):
            assert fleet.python(server, transport).request("subscribe-agent", "a")["ok"] is True
        assert upgraded(server, server.url) == 101
        assert upgraded(server, "http://localhost:5173") == 101
        assert upgraded(server, "http://localhost:5174") == 403
