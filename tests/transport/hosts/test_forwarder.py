"""Requests that reach another host than their session's: what the client gets, what the owner sees, and the limits."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from tests.certificate import Authority
from tests.transport.hosts.sites import Client, Known, Site
from wsapp.core.forwarding import HEADER, forwarded_header
from wsapp.core.forwarding import Client as Named
from wsapp.transport.hosts.route import Route, certificate_of

ONE, TWO = "0000000a", "0000000b"


def until(met: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not met():
            gevent.sleep(0.001)


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def sites(known: Known) -> Iterator[tuple[Site, Site]]:
    made = Site(ONE, known), Site(TWO, known)
    yield made
    for site in made:
        site.stop()


@pytest.fixture
def client(sites: tuple[Site, Site]) -> Iterator[Client]:
    made = Client(sites[0])
    yield made
    made.close()


def test_the_owner_answers(sites: tuple[Site, Site], client: Client) -> None:
    assert client.ask() == (200, b"0000000a GET ")
    assert client.ask(ONE + "x") == (200, b"0000000a GET ")
    assert client.ask(TWO + "x") == (200, b"0000000b GET ")
    assert client.ask(TWO + "x", "POST", b"y" * 300_000) == (200, b"0000000b POST " + b"y" * 300_000)
    assert client.ask(TWO + "x", "GET", b"", "empty") == (204, b"")
    assert client.ask(ONE + "x") == (200, b"0000000a GET ")  # the client's connection stayed where it was
    assert sites[0].counts == {"forwarded": 3} and not sites[1].counts
    assert len(sites[0].forwarder) == 0


def test_one_connection_serves_many_requests(sites: tuple[Site, Site], client: Client) -> None:
    for _ in range(5):
        assert client.ask(TWO + "x", "POST", b"z")[0] == 200
    assert len({id(seen["wsapp.handler"]) for seen in sites[1].seen}) == 1


def test_the_owner_sees_the_client(sites: tuple[Site, Site], client: Client) -> None:
    client.ask(TWO + "x", "GET", b"", "", "X-Forwarded-For: 203.0.113.9", "Cookie: a=b", "X-Own: 1")
    [seen] = sites[1].seen
    host, port = client.sock.getsockname()
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == (host, str(port))
    assert (seen["HTTP_HOST"], seen["HTTP_X_FORWARDED_FOR"], seen["HTTP_COOKIE"], seen["HTTP_X_OWN"]) == (
        "site.example", "203.0.113.9", "a=b", "1")
    assert "HTTP_WSAPP_FORWARDED" not in seen


def test_a_websocket_becomes_one_with_its_owners(sites: tuple[Site, Site], client: Client) -> None:
    client.send(TWO + "x", "GET", b"", "ws", "Connection: Upgrade", "Upgrade: websocket")
    assert client.head() == 101
    assert client.fields["x-owner"] == TWO
    assert client.file.read(6) == b"hello "
    for number in range(50):
        client.sock.sendall(b"%02d" % number)
        assert client.file.read(2) == b"%02d" % number
    assert len(sites[0].forwarder) == 1
    client.sock.shutdown(1)
    assert client.file.read() == b""
    until(lambda: len(sites[0].forwarder) == 0)


def test_a_client_that_hangs_up_hangs_up_on_the_owner(sites: tuple[Site, Site], client: Client) -> None:
    client.send(TWO + "x", "GET", b"", "wait")
    until(lambda: sites[1].seen)
    client.sock.shutdown(2)
    until(lambda: sites[1].left == 1)
    until(lambda: len(sites[0].forwarder) == 0)
    assert not sites[0].counts, "neither forwarded nor failed"


@pytest.mark.parametrize("gone", ["no lease", "no listener"])
def test_without_an_owner_it_is_answered_here(known: Known, sites: tuple[Site, Site], client: Client,
                                              gone: str) -> None:
    if gone == "no lease":
        del known.routes[TWO]
    else:
        sites[1].server.close()
    assert client.ask(TWO + "x") == (200, b"0000000a GET ")
    assert client.ask(TWO + "x", "POST", b"body") == (200, b"0000000a POST body")
    assert sites[0].counts == {"forwardsFailed": 2}
    assert len(sites[0].forwarder) == 0


def test_an_owner_that_hangs_up_without_an_answer(sites: tuple[Site, Site], client: Client) -> None:
    client.ask(TWO + "x", "POST", b"1")
    sites[1].server.application = hang_up
    client.send(TWO + "x", "POST", b"2")
    assert client.read()[1] == b"0000000a POST "  # its body went to the owner
    assert sites[0].counts["forwardsFailed"] == 1


def hang_up(environ: dict[str, object], _start_response: object) -> list[bytes]:
    environ["wsgi.input"].read()  # type: ignore[attr-defined]
    environ["wsapp.handler"].socket.shutdown(2)  # type: ignore[attr-defined]
    return []


def test_an_owner_that_does_not_answer_in_time(known: Known) -> None:
    one, two = Site(ONE, known, patience=0.1), Site(TWO, known)
    client = Client(one)
    client.send(TWO + "x", "GET", b"", "wait")
    until(lambda: one.counts == {"forwardsFailed": 1})
    until(lambda: two.left == 1)
    client.close()
    one.stop()
    two.stop()


def test_one_hop_at_most(known: Known, sites: tuple[Site, Site], client: Client) -> None:
    """The lease is wrong, or the owner went meanwhile: the second host answers by itself."""
    known.routes["0000000c"] = known.routes[TWO]
    assert client.ask("0000000cx") == (200, b"0000000b GET ")
    assert not sites[1].counts


@pytest.mark.parametrize("header", ["true", "1 203.0.113.7 1 http " + "0" * 64])
def test_a_client_cannot_pass_for_a_worker(sites: tuple[Site, Site], client: Client, header: str) -> None:
    code, told = client.ask(ONE + "x", "GET", b"", "", f"{HEADER}: {header}")
    assert (code, client.fields["connection"]) == (403, "close")
    assert HEADER.encode() in told and not sites[0].seen
    assert sites[0].counts == {"forwardsRefused": 1}


def test_nor_with_a_header_of_another_request(sites: tuple[Site, Site], client: Client) -> None:
    header = forwarded_header(b"shared", "GET", f"/socket.io/?EIO=4&sid={TWO}x", Named("203.0.113.7", 1, "http"))
    assert client.ask(ONE + "x", "GET", b"", "", f"{HEADER}: {header}")[0] == 403


def test_another_secret_is_refused_and_the_client_told(known: Known, sites: tuple[Site, Site], client: Client) -> None:
    class Stale(Known):
        secret = b"of yesterday"  # type: ignore[assignment]

    stale = Stale.__new__(Stale)
    stale.routes = known.routes
    sites[0].forwarder._routes[:] = [stale]
    assert client.ask(TWO + "x")[0] == 403
    assert sites[1].counts == {"forwardsRefused": 1}


def test_no_more_than_may_be(known: Known) -> None:
    one, two = Site(ONE, known, most=2), Site(TWO, known)
    waiting = [Client(one) for _ in range(2)]
    for each in waiting:
        each.send(TWO + "x", "GET", b"", "wait")
    until(lambda: len(two.seen) == 2)
    client = Client(one)
    assert client.ask(TWO + "x")[0] == 503
    assert client.fields["retry-after"] == "1"
    assert client.ask(ONE + "x")[0] == 200
    waiting[0].close()
    until(lambda: len(one.forwarder) == 1)
    assert client.ask(TWO + "x")[0] == 200
    for each in (*waiting, client):
        each.close()
    one.stop()
    two.stop()


def test_other_paths_and_methods_are_not_forwarded(sites: tuple[Site, Site], client: Client) -> None:
    client.sock.sendall(f"GET /shop?sid={TWO}x HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert client.read()[0] == 200
    client.send(TWO + "x", "HEAD")
    assert client.head() == 200
    assert len(sites[0].seen) == 2 and not sites[1].seen


def test_between_hosts_that_speak_tls(tmp_path: Path) -> None:
    """The certificate is known by its fingerprint; one that no lease names is not trusted with anything."""
    known, signed = Known(), Authority(tmp_path).sign("host")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    shown = certificate_of(context)
    one, two = (Site(token, known, tls=context, certificate=shown) for token in (ONE, TWO))
    client = Client(one, tls=True)
    assert client.ask(TWO + "x", "POST", b"y" * 200_000) == (200, b"0000000b POST " + b"y" * 200_000)
    client.send(TWO + "x", "GET", b"", "ws", "Connection: Upgrade", "Upgrade: websocket")
    assert client.head() == 101
    assert client.file.read(6) == b"hello "
    client.sock.sendall(b"through two tunnels")
    assert client.file.read(19) == b"through two tunnels"
    known.routes[TWO] = Route(*two.address, frozenset({"0" * 64}))
    one.forwarder._upstreams.close()
    other = Client(one, tls=True)
    assert other.ask(TWO + "x") == (200, b"0000000a GET ")
    assert one.counts["forwardsFailed"] == 1
    for each in (client, other):
        each.close()
    one.stop()
    two.stop()
