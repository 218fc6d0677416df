"""Attacks on places: connections by the thousand from four addresses, while a new client of a fifth is served within a
second and the health checks are always answered.  Nobody is refused because of what others hold silently."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.clients.fleet import Fleet
from tests.clients.raw_client import RawSocket
from tests.cluster.bystander import counted, undisturbed
from tests.harness import DEADLINE, Server, wait_until
from tests.tokens import GUARDED, auth

pytestmark = [pytest.mark.cluster, pytest.mark.node]

APP = "tests.apps.guarded:app"
ATTACKERS = [f"127.0.0.{number}" for number in (11, 12, 13, 14)]
POLLING = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    """One worker with the limits that it has by default: 1000 connections."""
    with Server(1, app=APP, env=GUARDED) as server:
        yield server


def connect(server: Server, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), DEADLINE, source_address=(address, 0))


def ask(server: Server, request: bytes, address: str = "127.0.0.9") -> bytes:
    """The whole answer to a request that says `Connection: close`."""
    with closing(connect(server, address)) as sock:
        sock.sendall(request)
        told = b""
        while got := sock.recv(65536):
            told += got
    return told


def a_newcomer_is_served(server: Server) -> None:
    """Within a second; on a busy machine the quickest of some counts, and each is served."""
    took = []
    for _ in range(5):
        began = time.monotonic()
        raw = RawSocket(server, auth("newcomer"), source_address=("127.0.0.9", 0))
        assert raw.request('["host-echo","here"]') == "here"
        health = ask(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert health.startswith(b"HTTP/1.1 200 ")
        took.append(time.monotonic() - began)
        raw.close()
        if took[-1] < 1.0:
            return
    raise AssertionError(took)


@contextmanager
def held(server: Server, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections of four addresses, each with the bytes `first`, and nothing more; ended with the block."""
    socks: list[socket.socket] = []
    try:
        for number in range(count):
            sock = connect(server, ATTACKERS[number % 4])
            socks.append(sock)
            if first:
                sock.sendall(first)
        yield socks
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("first", [
    pytest.param(b"", id="silent"), pytest.param(b"G", id="one byte"),
    pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", id="kept alive"),
    pytest.param(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000000000\r\n\r\nabc", id="a body"),
    pytest.param(b"GET /socket.io/?sid=0123456789abcdef HTTP/1.1\r\nHost: x\r\nX: ", id="handed over"),
])
def test_connections_that_say_nothing(one: Server, fleet: Fleet, first: bytes) -> None:
    """5000 of four addresses; 1000 kept a worker busy for 67 s, its health checks included."""
    # They come within a second and go in a moment: work for one second, on a machine that others use too.
    with undisturbed(one, fleet, grows=150e6, worst=5.0), held(one, 5000, first) as socks:
        for _ in range(3):
            a_newcomer_is_served(one)
            time.sleep(0.1)
        assert sum(_is_open(sock) for sock in socks) <= 2 * 1000 + 128 + 32
    assert counted(one, "httpClosed") > 0
    assert one.get("/readyz").status == 200


def _is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while True:
            if not sock.recv(65536):
                return False
    except BlockingIOError:
        return True
    except OSError:
        return False


class Poller:
    """A polling client that has joined, with a GET that waits."""

    def __init__(self, server: Server, user: str) -> None:
        self._server = server
        told = ask(server, POLLING)
        sid = json.loads(b"{" + told.partition(b"0{")[2])["sid"]
        self._path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
        assert self.post("40" + json.dumps(auth(user))).endswith(b"ok")
        self._get = connect(server, "127.0.0.9")
        self._next()
        self._get.recv(65536)
        self._next()

    def _next(self) -> None:
        self._get.sendall(f"GET {self._path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def post(self, body: str) -> bytes:
        return ask(self._server, (f"POST {self._path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                                  f"Content-Length: {len(body)}\r\n\r\n{body}").encode())

    def close(self) -> None:
        self._get.close()


def test_as_many_polling_clients_as_there_may_be_lock_nobody_out() -> None:
    """1000 kept each other from sending: each has a GET that waits, and the worker took 1000 connections."""
    with Server(1, app=APP, env={**GUARDED, "MAX_CONNECTIONS": "300", "WSAPP_MAX_INBOUND_PER_SEC": "0",
                                 "GUNICORN_CMD_ARGS": "--worker-connections 300"}) as server:
        clients = [Poller(server, f"poller-{number}") for number in range(299)]
        for client in clients[::20]:
            assert client.post('42["no-such-event"]').endswith(b"ok")
        a_newcomer_is_served(server)
        for client in clients:
            client.close()


def test_polling_sessions_that_are_opened_and_left(one: Server, fleet: Fleet) -> None:
    """1500 of them, which were as many as a worker may have and more."""
    closed = counted(one, "unjoinedClosed")
    with undisturbed(one, fleet):
        opened = 0
        for number in range(1500):
            told = ask(one, POLLING, ATTACKERS[number % 4])
            opened += told.startswith(b"HTTP/1.1 200 ")
            if number % 100 == 99:
                a_newcomer_is_served(one)
    assert opened >= 250
    assert counted(one, "unjoinedClosed") > closed
    assert one.get("/readyz").status == 200


def test_streams_and_sockets_share_one_limit(fleet: Fleet) -> None:
    with Server(1, app=APP, env={**GUARDED, "MAX_CONNECTIONS": "4"}) as server:
        raws = [RawSocket(server, auth(f"user-{number}")) for number in range(3)]
        head = (f"GET /api/v1/stream?rooms=agent:a HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {auth('s')['token']}\r\n\r\n")
        with closing(connect(server, "127.0.0.9")) as stream:
            stream.sendall(head.encode())
            assert stream.recv(12) == b"HTTP/1.1 200"
            told = ask(server, head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode())
            assert told.startswith(b"HTTP/1.1 503 ") and b"the worker is full: 4 connections" in told
            assert ask(server, POLLING).startswith(b"HTTP/1.1 503 ")
            raws.pop().close()
            wait_until(lambda: ask(server, POLLING).startswith(b"HTTP/1.1 200 "), "a place")
        for raw in raws:
            raw.close()


def test_who_leaves_its_namespace_and_stays_has_no_place(fleet: Fleet) -> None:
    with Server(1, app=APP, env={**GUARDED, "WSAPP_CONNECT_TIMEOUT": "0.5"}) as server:
        raw = RawSocket(server, auth("leaver"))
        raw.send("41")
        assert raw.close_code() == 1008
        again = RawSocket(server, auth("leaver"))
        again.send("41")
        again.send("40" + json.dumps(auth("leaver")))
        again.packet("40")
        time.sleep(1.5)  # three times what an unjoined one has
        assert again.request('["host-echo",1]') == 1
        again.close()
