"""TLS that ends in gunicorn: both stock clients, every transport, two workers, and the ends that TLS can come to."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificate import Authority
from tests.clients.fleet import Fleet, fresh, publish, thoughts
from tests.cluster.bystander import undisturbed
from tests.harness import Server, http, wait_until
from tests.tokens import GUARDED, auth

pytestmark = [pytest.mark.cluster, pytest.mark.node]

CONNECTIONS = 30
FLOOD = 400  # handshakes
BIG = 200_000  # bytes of one thought


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def environment(authority: Authority, name: str = "server", days: float = 90) -> dict[str, str]:
    signed = authority.sign(name, days)
    return {"WSAPP_TLS_CERTIFICATE": str(signed.certificate), "WSAPP_TLS_KEY": str(signed.key)}


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Server]:
    env = {**environment(authority), "WSAPP_DRAIN_TIMEOUT": "3", "WSAPP_HSTS": "31536000",
           "WSAPP_REQUEST_TIMEOUT": "3", "MAX_EVENTS_PER_SEC": "1000"}
    with Server(workers=2, env=env, ca=authority.path) as running:
        yield running


@pytest.mark.parametrize(("kind", "transport"), [
    ("npm", "polling"), ("npm", "upgrade"), ("npm", "websocket"), ("python", "polling"), ("python", "upgrade"),
    ("python", "websocket")])
def test_all_connections_work(server: Server, fleet: Fleet, kind: str, transport: str) -> None:
    agent = fresh("agent")
    clients = fleet.many(server, kind, transport, CONNECTIONS)
    acks = fleet.each(clients, lambda client: client.subscribe("agent", agent))
    assert [ack["seq"] for ack in acks] == [0] * CONNECTIONS
    ids = publish(server, agent, 2)
    for client in clients:
        client.wait_ids(ids)
        assert client.ids() == ids
        assert not client.all("disconnect") and not client.all("connect_error")
    final = "polling" if transport == "polling" else "websocket"
    for client in clients:
        wait_until(lambda: client.transport() == final, f"{final} in the end")  # noqa: B023 - used at once


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("kind", ["npm", "python"])
def test_big_messages_both_ways(server: Server, fleet: Fleet, kind: str, transport: str) -> None:
    agent, text = fresh("big"), "x" * BIG
    client = fleet.open(server, kind, transport)
    client.subscribe("agent", agent)
    told = client.request("update-metadata", {"notes": text})
    assert told["ok"] is False or told["ok"] is True  # it was read to its end and answered, whatever is made of it
    server.emitter.broadcast_agent_thought({"agentId": agent, "thought": text})
    server.emitter.broadcast_agent_thought({"agentId": agent, "thought": "after"})
    client.wait(lambda: thoughts(client, agent)[-1:] == ["after"], "both")
    assert thoughts(client, agent) == [text, "after"]
    assert not client.all("disconnect")


def test_a_client_that_does_not_read_for_a_while(server: Server, fleet: Fleet) -> None:
    agent = fresh("slow")
    client, other = fleet.npm(server), fleet.npm(server)
    for each in (client, other):
        each.subscribe("agent", agent)
    client.pause()
    text = "y" * 100_000
    for number in range(40):
        server.emitter.broadcast_agent_thought({"agentId": agent, "thought": f"{number} {text}"})
        other.wait(lambda: thoughts(other, agent)[-1:] == [f"{number} {text}"], "it")  # noqa: B023 - used at once
    client.resume()
    client.wait(lambda: thoughts(client, agent)[-1:] == [f"39 {text}"], "the newest")
    assert not client.all("disconnect")


def test_many_clients_get_a_burst_in_order(server: Server, fleet: Fleet) -> None:
    agent = fresh("crowd")
    clients = fleet.many(server, "npm", "websocket", 300)
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    ids = publish(server, agent, 20)
    for client in clients:
        client.wait_ids(ids)
        assert client.ids() == ids


def test_goodbye_through_tls(server: Server, fleet: Fleet, authority: Authority) -> None:
    """A drain tells 1012 to everybody, also to those who are served by another worker than decrypts for them; and with
    a reload comes a renewed certificate."""
    agent = fresh("goodbye")
    clients = [*fleet.many(server, "npm", "upgrade", 12), *fleet.many(server, "npm", "websocket", 12)]
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    for client in clients:
        wait_until(lambda: client.transport() == "websocket", "the upgrade")  # noqa: B023 - used at once
    before = serial(server)
    authority.sign("server")
    old = set(server.worker_pids())
    server.process.send_signal(signal.SIGHUP)
    for client in clients:
        lost = client.wait_for("disconnect")
        assert lost[0].args[1] == 1012, client.summary()
        client.wait_for("connect", 2)
    wait_until(lambda: not old & set(server.worker_pids()), "the old workers gone")
    ids = publish(server, agent, 3)
    for client in clients:
        client.wait_ids(ids)
    assert serial(server) != before
    Path(server.env["WSAPP_TLS_CERTIFICATE"]).write_text("no certificate")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "stays in use" in server.log_tail(), "the refusal")
    authority.sign("server")
    wait_until(server.ready, "it serves on")


def connect(server: Server, **options: object) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=server.ca)
    for name, value in options.items():
        setattr(context, name, value)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), 30), server_hostname="localhost")


def serial(server: Server) -> object:
    with connect(server) as client:
        return (client.getpeercert() or {})["serialNumber"]


def test_modern_tls_only(server: Server) -> None:
    with connect(server) as client:
        assert client.version() == "TLSv1.3"
    with connect(server, maximum_version=ssl.TLSVersion.TLSv1_2) as client:
        assert client.version() == "TLSv1.2"
        assert "GCM" in client.cipher()[0] or "CHACHA" in client.cipher()[0]  # type: ignore[index]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(server: Server) -> None:
    old = ssl.create_default_context(cafile=server.ca)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (socket.create_connection(("127.0.0.1", server.port), 30) as link,
          pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION")):
        old.wrap_socket(link, server_hostname="localhost")


def test_no_tls_at_all_is_told(server: Server) -> None:
    told = http(f"http://127.0.0.1:{server.port}/healthz")
    assert (told.status, told.text) == (400, "This port speaks https, not http")


def test_one_who_does_not_shake_hands_is_let_go(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 30) as silent, connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nX")  # and a head that does not end, behind the handshake
        assert silent.recv(1) == b""
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_flood_of_handshakes_is_refused_before_it_costs_anything(authority: Authority, fleet: Fleet) -> None:
    """Who is there is served as ever, and who comes afterwards gets in."""
    env = {**GUARDED, **environment(authority, "small"), "WSAPP_MAX_TLS_HANDSHAKES_PER_SEC": "5"}
    with Server(1, app="tests.apps.guarded:app", env=env, ca=authority.path) as small, undisturbed(small, fleet):
        outcomes = []
        for _ in range(FLOOD):
            try:
                connect(small).close()
                outcomes.append("in")
            except ssl.SSLError as error:
                outcomes.append(error.reason or "")
        assert set(outcomes) == {"in", "TLSV1_ALERT_INTERNAL_ERROR"}
        assert outcomes.count("in") < FLOOD / 2
        late = fleet.npm(small, auth=auth("late"))  # by itself, as often as it takes
        assert late.request("host-echo", 1) == 1
        counted = wait_until(lambda: _refused(small), "a place for this one too")
        assert counted >= outcomes.count("TLSV1_ALERT_INTERNAL_ERROR")


def _refused(server: Server) -> float:
    try:
        return server.metric("wsapp_tls_handshakes_refused_total")
    except OSError:
        return 0


def test_answers_are_whole_and_ends_are_told(server: Server) -> None:
    with connect(server) as client:
        client.suppress_ragged_eofs = False  # an end without close_notify would raise
        client.sendall(b"GET /live/socket.io.min.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        whole = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = whole.partition(b"\r\n\r\n")
    assert b"Strict-Transport-Security: max-age=31536000" in head
    assert len(body) == (Path(__file__).parents[2] / "wsapp/blueprints/static/socket.io.min.js").stat().st_size




def test_only_clients_with_a_certificate(authority: Authority, tmp_path: Path) -> None:
    known, stranger = Authority(tmp_path, "clients"), Authority(tmp_path, "strangers").sign("stranger")
    env = {**environment(authority, "exclusive"), "WSAPP_TLS_CLIENT_CA": str(known.path)}
    exclusive = Server(workers=1, env=env, ca=authority.path)
    try:
        exclusive.start(wait=False)
        context = ssl.create_default_context(cafile=authority.path)
        context.load_cert_chain(*known.sign("client"))
        wait_until(lambda: asked(exclusive, context), "an answer for one who is known")
        refused = ssl.create_default_context(cafile=authority.path)
        assert not asked(exclusive, refused)
        refused.load_cert_chain(*stranger)
        assert not asked(exclusive, refused)
    finally:
        exclusive.close()


def asked(server: Server, context: ssl.SSLContext) -> bool:
    try:
        with (socket.create_connection(("127.0.0.1", server.port), 30) as link,
              context.wrap_socket(link, server_hostname="localhost") as client):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
