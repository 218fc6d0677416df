"""Two servers of one Redis behind a balancer that knows nothing of sessions: every transport works on any host."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest

from tests.certificate import Authority
from tests.clients.fleet import Fleet, fresh, publish
from tests.clients.recorder import Recorder
from tests.fault.load import Load
from tests.harness import Server, http, wait_until
from tests.namespaces import Namespaces
from tests.proxies import Balancer
from tests.valkey import Valkey

pytestmark = [pytest.mark.cluster, pytest.mark.node]

TRANSPORTS = ("upgrade", "polling", "websocket")
ENV = {"WSAPP_DRAIN_TIMEOUT": "4", "MAX_EVENTS_PER_SEC": "1000", "WSAPP_HEARTBEAT": "0.5"}


class Site:
    """Two servers with two workers each, and nginx before them."""

    def __init__(self, servers: Sequence[Server], front: Server) -> None:
        self.servers, self.front = list(servers), front

    def forwarded(self) -> int:
        """How many requests went to another host."""
        return counted(self.servers[0], "wsapp_forwarded_total")


def counted(server: Server, name: str) -> int:
    """A counter, summed over all workers of both servers."""
    lines = server.get("/metrics").text.splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(name + "{"))


@contextmanager
def site(folder: Path, rule: str = "", env: dict[str, str] | None = None, ca: Path | None = None) -> Iterator[Site]:
    with ExitStack() as opened:
        valkey = Valkey().start()
        opened.callback(valkey.close)
        servers = [opened.enter_context(Server(2, redis_url=valkey.url, env={**ENV, **(env or {})}, ca=ca))
                   for _ in range(2)]
        yield Site(servers, cast(Server, opened.enter_context(Balancer(folder, servers, rule))))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("nginx")) as running:
        yield running


def everybody(fleet: Fleet, front: Server, transport: str, agent: str, count: int = 40) -> list[Recorder]:
    """Half from npm, half python-socketio, all subscribed."""
    half = count // 2
    clients = [*fleet.many(front, "npm", transport, half), *fleet.many(front, "python", transport, count - half)]
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    return clients


def all_kinds(fleet: Fleet, front: Server, agent: str, count: int) -> list[Recorder]:
    """`count` of each transport."""
    return [client for transport in TRANSPORTS for client in everybody(fleet, front, transport, agent, count)]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_forty_of_forty(shared: Site, fleet: Fleet, transport: str) -> None:
    agent, before = fresh("agent"), shared.forwarded()
    clients = everybody(fleet, shared.front, transport, agent)
    ids = [id for server in shared.servers for id in publish(server, agent, 2)]
    for client in clients:
        client.wait_ids(ids)
    final = "polling" if transport == "polling" else "websocket"
    for client in clients:
        wait_until(lambda: client.transport() == final, f"{final} in the end")  # noqa: B023 - used at once
        assert not client.all("disconnect") and not client.all("connect_error")
    assert transport == "websocket" or shared.forwarded() > before


def test_big_bodies_both_ways(shared: Site, fleet: Fleet) -> None:
    agent, big = fresh("agent"), "x" * 200_000
    clients = everybody(fleet, shared.front, "polling", agent, 8)
    answers = fleet.each(clients, lambda client: client.request("update-metadata", {"notes": big}))
    assert all("ok" in answer for answer in answers)
    shared.servers[0].emitter.broadcast_agent_thought({"agentId": agent, "thought": big})
    for client in clients:
        client.wait(lambda: [item["thought"] for item in client.items()] == [big], "the big one")  # noqa: B023


@pytest.mark.parametrize("rule", ["hash $request_id consistent;", "least_conn;", "random;"])
def test_other_rules_of_the_balancer(tmp_path: Path, fleet: Fleet, rule: str) -> None:
    agent = fresh("agent")
    with site(tmp_path, rule) as running:
        clients = all_kinds(fleet, running.front, agent, 8)
        ids = publish(running.servers[1], agent, 3)
        for client in clients:
            client.wait_ids(ids)
            assert not client.all("disconnect") and not client.all("connect_error")


def test_servers_that_speak_tls_themselves(tmp_path: Path, fleet: Fleet) -> None:
    authority, agent = Authority(tmp_path), fresh("agent")
    signed = authority.sign("server")
    env = {"WSAPP_TLS_CERTIFICATE": str(signed.certificate), "WSAPP_TLS_KEY": str(signed.key),
           "WEBSOCKET_CORS_ORIGIN": "*"}  # nginx speaks http: not the origin that the servers see
    with site(tmp_path, env=env, ca=authority.path) as running:
        for transport in TRANSPORTS:
            clients = everybody(fleet, running.front, transport, agent, 12)
            ids = publish(running.servers[0], agent, 2)
            for client in clients:
                client.wait_ids(ids)
                assert not client.all("disconnect") and not client.all("connect_error")


def test_one_server_after_the_other_is_replaced(tmp_path: Path, fleet: Fleet) -> None:
    agent = fresh("agent")
    with site(tmp_path) as running:
        clients = all_kinds(fleet, running.front, agent, 12)
        with Load(running.servers[0], agent, 50) as load:
            for server in running.servers:
                server.terminate()
                server.start()
                for client in clients:
                    client.wait(lambda: client.connected, "connected")  # noqa: B023 - used at once
        ids = [*load.ids, *publish(running.servers[1], agent, 2)]
        for client in clients:
            client.wait_ids(ids, timeout=60)
        assert all(session["recovered"] for client in clients for session in client.sessions[1:])


def test_a_server_dies_under_load(tmp_path: Path, fleet: Fleet) -> None:
    """kill -9 of a master and its workers, as a machine that loses its power."""
    agent = fresh("agent")
    with site(tmp_path) as running:
        clients = all_kinds(fleet, running.front, agent, 12)
        dead, alive = running.servers
        with Load(alive, agent, 50) as load:
            wait_until(lambda: len(load.ids) > 20, "under load")
            os.killpg(dead.process.pid, signal.SIGKILL)
            dead.process.wait(10)
            count = len(load.ids)
            wait_until(lambda: len(load.ids) > count + 100, "under load")
        ids = [*load.ids, *publish(alive, agent, 2)]
        for client in clients:
            client.wait_ids(ids, timeout=60)


def polled(server: Server) -> tuple[str, str]:
    """A polling session of a server, and its sid."""
    sid: str = json.loads(http(server.polling_url).body[1:])["sid"]
    return sid, f"{server.polling_url}&sid={sid}"


def test_an_owner_that_is_gone_is_told_at_once(shared: Site) -> None:
    one, two = shared.servers
    sid, _ = polled(one)
    there = f"{two.polling_url}&sid={sid}"
    assert http(there, b"40").body == b"ok"
    assert b'"session"' in http(there).body
    pid = next(pid for pid in one.worker_pids() if worker_log_name(one, pid) == sid[:8])
    one.kill_worker(pid)
    began = time.monotonic()
    refused = http(there)
    assert (refused.status, refused.json()) == (400, {"code": 1, "message": "Session ID unknown"})
    assert time.monotonic() - began < 3
    wait_until(lambda: len(one.worker_pids()) == 2 and one.ready(), "another worker")


def worker_log_name(server: Server, pid: int) -> str:
    """The token under which a worker said that it is up."""
    line = next(line for line in server.log.read_text().splitlines() if f"[{pid}]" in line and " is up: " in line)
    return line.partition("wsapp worker ")[2].split()[0]


def test_an_id_that_nobody_gave_is_unknown_everywhere(shared: Site) -> None:
    for server in shared.servers:
        for sid in ("0badcafeAAAAAAAAAAAAAAAAAAAA", "x", "0badcafe"):
            assert http(f"{server.polling_url}&sid={sid}").status == 400


def test_a_client_cannot_pass_for_a_worker(shared: Site) -> None:
    _, own = polled(shared.servers[0])
    for header in ("1 203.0.113.7 80 https " + "0" * 64, "yes"):
        refused = http(own, headers={"Wsapp-Forwarded": header})
        assert (refused.status, refused.text) == (403, refused.text)
        assert "Wsapp-Forwarded" in refused.text
    assert http(f"{shared.servers[0].url}/healthz", headers={"Wsapp-Forwarded": "yes"}).status == 403


def test_the_cancelled_poll_of_a_client_ends_its_session_on_the_other_host(shared: Site) -> None:
    one, two = shared.servers
    sid, own = polled(one)
    there = f"{two.polling_url}&sid={sid}"
    http(there, b"40")
    http(there)
    with pytest.raises(OSError):
        http(there, timeout=0.3)
    wait_until(lambda: http(own).status == 400, "the session is over at its owner")


def test_a_stream_is_acknowledged_on_the_other_host(tmp_path: Path) -> None:
    from tests.cluster.test_stream import Sse, reply_to
    with site(tmp_path, env={"WSAPP_CRITICAL_FIRST": "20"}) as running:
        one, two = running.servers
        agent = fresh("agent")
        with Sse(one, f"agent:{agent}") as stream:
            secret = stream.take(1, "session")[0].data["sessionId"]
            one.emitter.broadcast_agent_thought({"agentId": agent, "thought": "c"}, critical=True)
            id = stream.take(1, "ack-wanted")[0].data["id"]
            assert reply_to(two, "ack", {"id": id, "sessionId": secret}).json() == {"id": id}


# -- hosts with addresses of their own


class Hosts:
    """Two namespaces with a server each, a Valkey that both reach, nginx before them."""

    def __init__(self, opened: ExitStack, folder: Path, **env: str) -> None:
        self.spaces = opened.enter_context(Namespaces())
        valkey = Valkey(bind=self.spaces.gateway).start()
        opened.callback(valkey.close)
        quick = {"PING_INTERVAL": "1000", "PING_TIMEOUT": "1500"}
        self.servers = [opened.enter_context(Server(
            2, redis_url=valkey.url, env={**ENV, **quick, "WSAPP_BIND": "0.0.0.0", **env},
            host=self.spaces.address(number), place=self.spaces.place(number))) for number in range(2)]
        self.front = cast(Server, opened.enter_context(Balancer(folder, self.servers)))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as opened:
        yield Hosts(opened, tmp_path)


def test_hosts_find_each_other_by_the_interface_that_reaches_redis(hosts: Hosts, fleet: Fleet) -> None:
    agent = fresh("agent")
    for transport in TRANSPORTS:
        clients = everybody(fleet, hosts.front, transport, agent, 20)
        ids = publish(hosts.servers[0], agent, 2)
        for client in clients:
            client.wait_ids(ids)
            assert not client.all("disconnect") and not client.all("connect_error")
    assert counted(hosts.servers[0], "wsapp_forwarded_total") > 20


def test_a_cut_between_hosts_that_both_reach_redis(hosts: Hosts, fleet: Fleet) -> None:
    """What needs the other host is refused at once, so that its client comes back; websockets that do not need it stay;
    nothing that was published is lost to anybody."""
    agent, (one, two) = fresh("agent"), hosts.servers
    straight = [*fleet.many(one, "npm", "websocket", 4), *fleet.many(two, "python", "websocket", 4)]
    fleet.each(straight, lambda client: client.subscribe("agent", agent))
    crossing = [client for transport in ("upgrade", "polling")
                for client in everybody(fleet, hosts.front, transport, agent, 8)]
    with Load(one, agent, 20) as load:
        hosts.spaces.cut(True)
        sid, _ = polled(one)
        began = time.monotonic()
        assert http(f"{two.polling_url}&sid={sid}").status == 400
        assert time.monotonic() - began < 10
        count = len(load.ids)
        wait_until(lambda: len(load.ids) > count + 60, "published during the cut")
        hosts.spaces.cut(False)
    ids = [*load.ids, *publish(two, agent, 2)]
    for client in (*straight, *crossing):  # python-socketio waits for the answer to CONNECT up to `wait_timeout`, 30 s
        client.wait_ids(ids, timeout=120)
    assert not any(client.all("disconnect") for client in straight)
