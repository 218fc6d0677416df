"""The deployment examples at work: TLS ends at nginx or Caddy, behind it are two workers and no sticky sessions."""

from __future__ import annotations

import re
import shutil
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import websocket

from tests.certificate import Authority
from tests.clients.fleet import Fleet, fresh, publish, thoughts
from tests.harness import DEADLINE, Server, http, wait_until
from tests.proxies import EXAMPLES, Proxy, find, seconds_of
from wsapp.settings import Settings

pytestmark = [pytest.mark.cluster, pytest.mark.node]

KINDS = ("nginx", "caddy")
SPOOF = {"X-Forwarded-For": "203.0.113.66", "X-Forwarded-Proto": "http"}
ENV = {"WSAPP_TRUSTED_PROXIES": "1", "WSAPP_MAX_CONNECTIONS_PER_ADDRESS": "1", "WSAPP_HSTS": "600",
       "WSAPP_DEFLATE": "on", "WSAPP_DRAIN_TIMEOUT": "3", "PING_INTERVAL": "1000", "MAX_EVENTS_PER_SEC": "1000"}

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def start(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts proxies, ends them after the module."""
    started: list[Proxy] = []
    signed = authority.sign("proxy")

    def one(kind: str, server: Server, extra: dict[str, str] | None = None) -> Proxy:
        program = find(kind)
        if program is None:
            pytest.skip(f"no {kind} here: `.ci/setup proxies` fetches it on Debian, as root")
        proxy = Proxy(kind, program, tmp_path_factory.mktemp(kind), server.port, signed, authority.path, extra)
        started.append(proxy)
        return proxy.__enter__()

    yield one
    for proxy in started:
        proxy.__exit__()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(workers=2, env=ENV) as running:
        yield running


@pytest.fixture(scope="module", params=KINDS)
def proxy(request: pytest.FixtureRequest, start: Start, server: Server) -> Proxy:
    return start(request.param, server)


def as_server(proxy: Proxy) -> Server:
    """Clients want to know an address and whom to trust."""
    return cast(Server, proxy)


@pytest.mark.parametrize("transport", ["polling", "upgrade", "websocket"])
def test_every_transport(proxy: Proxy, server: Server, fleet: Fleet, transport: str) -> None:
    agent, big = fresh("agent"), "x" * 200_000
    front = as_server(proxy)
    clients = [*fleet.many(front, "npm", transport, 6), *fleet.many(front, "python", transport, 4)]
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    publish(server, agent, 5)
    server.emitter.broadcast_agent_thought({"agentId": agent, "thought": big})
    for client in clients:
        client.wait(lambda: thoughts(client, agent)[-1:] == [big], "the big one")  # noqa: B023 - used at once
        assert len(thoughts(client, agent)) == 6
    answers = fleet.each(clients, lambda client: client.request("update-metadata", {"notes": big}))
    assert all("ok" in answer for answer in answers)
    final = "polling" if transport == "polling" else "websocket"
    for client in clients:
        wait_until(lambda: client.transport() == final, f"{final} in the end")  # noqa: B023 - used at once
        assert not client.all("disconnect") and not client.all("connect_error")


def test_the_common_nginx_line_that_says_upgrade_to_everything(start: Start, server: Server, fleet: Fleet) -> None:
    """`Connection: upgrade` without Upgrade, over kept-alive connections to the server."""
    proxy = start("nginx", server, {"proxy_set_header Connection        $connection_upgrade;":
                                    'proxy_set_header Connection        "upgrade";'})
    agent, front = fresh("agent"), as_server(proxy)
    clients = [*fleet.many(front, "npm", "polling", 6), *fleet.many(front, "npm", "upgrade", 2)]
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    ids = publish(server, agent, 5)
    for client in clients:
        client.wait_ids(ids)
        assert not client.all("disconnect") and not client.all("connect_error")
    big = "x" * 50_000
    answers = fleet.each(clients, lambda client: client.request("update-metadata", {"n": big}))
    assert all("ok" in told for told in answers)


def test_two_workers_on_a_unix_socket(start: Start, tmp_path: Path, fleet: Fleet) -> None:
    """No client has an address there but the one that the proxy tells."""
    at = tmp_path / "http.sock"
    with Server(workers=2, env={**ENV, "WSAPP_MAX_CONNECTIONS_PER_ADDRESS": "0"}, bind=f"unix:{at}") as own:
        proxy = start("nginx", own, {"server 127.0.0.1:3001;": f"server unix:{at};"})
        agent, front = fresh("agent"), as_server(proxy)
        clients = fleet.many(front, "npm", "polling", 6)
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        ids = publish(own, agent, 5)
        for client in clients:
            client.wait_ids(ids)
            assert not client.all("disconnect") and not client.all("connect_error")
        assert "Traceback" not in own.log_tail(10_000)


def test_a_stream_comes_line_by_line(proxy: Proxy, server: Server) -> None:
    agent = fresh("line")
    context = ssl.create_default_context(cafile=proxy.ca)
    with urllib.request.urlopen(f"{proxy.url}/api/v1/stream?rooms=agent:{agent}", timeout=DEADLINE,
                                context=context) as stream:
        for number in range(3):  # each is there before the next is sent
            server.emitter.broadcast_agent_thought({"agentId": agent, "thought": f"line {number}"})
            while f"line {number}" not in (line := stream.readline().decode()):
                assert line


def test_deflate_goes_through(proxy: Proxy) -> None:
    link = websocket.create_connection(proxy.socket_url, timeout=DEADLINE, sslopt={"ca_certs": str(proxy.ca)},
                                       header=["Sec-WebSocket-Extensions: permessage-deflate"])
    assert "permessage-deflate" in link.getheaders()["sec-websocket-extensions"]
    link.close(timeout=1)


def polling(proxy: Proxy, **headers: str) -> Any:
    """A handshake and no more."""
    return http(f"{proxy.url}/socket.io/?EIO=4&transport=polling", headers=headers, ca=proxy.ca)


def test_what_the_client_says_of_itself_does_not_count(proxy: Proxy, server: Server) -> None:
    assert [polling(proxy, **SPOOF).status for _ in range(3)] == [200] * 3  # a believed address would have one
    direct = http(server.polling_url, headers={"X-Forwarded-Proto": "http"})
    assert direct.status == 200
    told = http(f"{proxy.url}/healthz", headers=SPOOF, ca=proxy.ca)
    assert told.headers["strict-transport-security"] == "max-age=600"
    assert "strict-transport-security" not in http(f"{server.url}/healthz").headers


def test_the_page_is_of_the_same_origin(proxy: Proxy) -> None:
    assert polling(proxy, Origin=proxy.url).status == 200
    assert polling(proxy, Origin="https://evil.example").status == 403
    assert http(f"{proxy.url}/", ca=proxy.ca).status == 200
    assert http(f"{proxy.url}/metrics", ca=proxy.ca).status == 403


def test_limits_count_the_address_behind_two_proxies(start: Start) -> None:
    """The test is the outer proxy: it appends the address that it saw."""
    with Server(workers=1, env={**ENV, "WSAPP_TRUSTED_PROXIES": "2"}) as own:
        for kind in KINDS[:1]:  # Caddy distrusts an outer proxy until `trusted_proxies` names it
            inner = start(kind, own)
            seen = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
            assert polling(inner, **seen).status == 200
            assert polling(inner, **{"X-Forwarded-For": "198.51.100.2, 203.0.113.7"}).status == 503
            assert polling(inner, **{"X-Forwarded-For": "203.0.113.8"}).status == 200


def test_goodbye_through_a_proxy(proxy: Proxy, server: Server, fleet: Fleet) -> None:
    agent = fresh("goodbye")
    clients = fleet.many(as_server(proxy), "npm", "websocket", 10)
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    old = set(server.worker_pids())
    server.process.send_signal(signal.SIGHUP)
    for client in clients:
        assert client.wait_for("disconnect")[0].args[1] == 1012, client.summary()
        client.wait_for("connect", 2)
    wait_until(lambda: not old & set(server.worker_pids()), "the old workers gone")
    ids = publish(server, agent, 3)
    for client in clients:
        client.wait_ids(ids)


def test_the_timeouts_outlast_the_heartbeat() -> None:
    example = (EXAMPLES / "nginx.conf").read_text()
    silence = Settings().ping_interval + Settings().ping_timeout
    assert min(seconds_of(name, example) for name in ("proxy_read_timeout", "proxy_send_timeout")) > silence
    taken = re.search(r"client_max_body_size (\d+)m;", example)
    assert taken is not None and int(taken[1]) * 1_000_000 >= Settings().api_max_body


def test_the_systemd_unit_is_sound(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here (on Debian: apt-get install systemd)")
    example = (EXAMPLES / "wsapp.service").read_text()
    started = shutil.which("true")
    unit = tmp_path / "wsapp.service"
    unit.write_text(re.sub(r"/srv/wsapp/\.venv/bin/gunicorn", str(started), example))
    done = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stderr) == (0, "")
