"""The worker's HTTP side: two of them in one process, on real sockets; the processes are in tests/cluster."""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.select
import gevent.socket
import pytest
from gevent.event import Event
from gevent.pool import Pool

from wsapp.transport import worker as worker_module
from wsapp.transport.handoff import Handoff
from wsapp.transport.worker import Handler, Server, SeveralHandoffs, Worker, register, services

ONE, TWO = "0000000a", "0000000b"


class Log(logging.Logger):
    """gunicorn's log, as far as its handler uses it."""

    access_log_enabled = True

    def access(self, *args: Any) -> None:
        self.debug("access")


class Site:
    """One worker: its server answers with its name, the request's path and its body."""

    def __init__(self, token: str, directory: Path) -> None:
        self.token, self.broken = token, False
        listener = gevent.socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.address = listener.getsockname()
        self.server = Server(listener, application=self.answer, spawn=Pool(50), log=Log("test"), handler_class=Handler,
                             environ={"wsgi.multithread": True})
        self.server.own_paths = ("/socket.io/",)
        self.handoff = Handoff(directory, token, self.server.adopt)
        self.server.handoff = self.handoff
        self.handoff.start()
        self.server.start()

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert isinstance(environ["wsapp.handler"], Handler)
        body = f"{self.token} {environ['PATH_INFO']} ".encode() + environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def stop(self) -> None:
        self.server.stop(timeout=0.1)
        self.handoff.stop()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    directory = tmp_path / "w"
    directory.mkdir(mode=0o700)
    made = Site(ONE, directory), Site(TWO, directory)
    yield made
    for site in made:
        site.stop()


class Client:
    def __init__(self, site: Site) -> None:
        self.sock = gevent.socket.create_connection(site.address)
        self.file = self.sock.makefile("rb")

    def send(self, query: str, method: str = "GET", body: bytes = b"") -> None:
        head = f"{method} /socket.io/?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self.sock.sendall(head.encode() + body)

    def read(self) -> bytes:
        with gevent.Timeout(5):
            length = 0
            while (line := self.file.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            return bytes(self.file.read(length))

    def ask(self, query: str, method: str = "GET", body: bytes = b"") -> bytes:
        self.send(query, method, body)
        return self.read()

    def close(self) -> None:
        self.file.close()
        self.sock.close()


def answer(token: str, body: bytes = b"") -> bytes:
    return f"{token} /socket.io/ ".encode() + body


def test_a_request_is_answered_by_the_owner_of_its_session(sites: tuple[Site, Site]) -> None:
    client = Client(sites[0])
    assert client.ask("EIO=4") == answer(ONE)
    assert client.ask(f"sid={ONE}abc") == answer(ONE)
    assert client.ask(f"sid={TWO}abc", "POST", b"x" * 50_000) == answer(TWO, b"x" * 50_000)
    assert client.ask(f"sid={TWO}abc") == answer(TWO)  # the connection is its owner's now
    assert client.ask("EIO=4") == answer(TWO)
    assert client.ask(f"sid={ONE}abc") == answer(ONE)  # and back
    assert (sites[0].handoff.given, sites[1].handoff.given) == (1, 1)
    client.close()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("head", ["Connection: upgrade", "Connection: Upgrade\r\nUpgrade: h2c", "Upgrade: websocket",
                                  "Connection: keep-alive, Upgrade\r\nUpgrade: websocket"])
def test_the_head_alone_tells_where_a_request_ends(sites: tuple[Site, Site], head: str) -> None:
    client = Client(sites[0])
    for body in (SMUGGLED, b"x" * 100_000):
        client.sock.sendall(f"POST /socket.io/ HTTP/1.1\r\nHost: x\r\n{head}\r\n"
                            f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.read() == answer(ONE, body)
    assert client.ask("EIO=4") == answer(ONE), "the next request begins where the body ended"
    client.close()


@pytest.mark.parametrize("length", ["100000000000000000", "70000"])
def test_a_body_that_nobody_wants_is_not_read(sites: tuple[Site, Site], length: str) -> None:
    sites[0].server.application = no_reader
    client = Client(sites[0])
    client.sock.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nabc".encode())
    with gevent.Timeout(10):
        told = client.file.read()
    assert told.startswith(b"HTTP/1.1 200 OK\r\n") and told.endswith(b"\r\n\r\nno")
    assert b"Connection: close\r\n" in told
    client.close()


def no_reader(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"no"]


def test_a_small_body_that_nobody_wants_costs_no_connection(sites: tuple[Site, Site]) -> None:
    sites[0].server.application = no_reader
    client = Client(sites[0])
    assert [client.ask("EIO=4", "POST", b"x" * 1000) for _ in range(3)] == [b"no"] * 3
    client.close()


def test_the_time_for_a_body_follows_what_arrives(sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "SLOWEST", 100)
    sites[0].server.request_timeout = 0.3
    client = Client(sites[0])
    client.sock.sendall(b"POST /socket.io/ HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n")
    for _ in range(20):  # as fast as it has to be, and in all far longer than a head may take
        client.sock.sendall(b"x" * 10)
        gevent.sleep(0.05)
    assert client.read() == answer(ONE, b"x" * 200)
    client.sock.sendall(b"POST /socket.io/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000\r\n\r\nabc")
    with gevent.Timeout(10):
        while client.sock.recv(1000):
            pass
    client.close()


def test_an_answer_to_head_has_no_body(sites: tuple[Site, Site]) -> None:
    def in_chunks(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        return iter([b"one", b"two"])

    for application in (sites[0].answer, in_chunks):
        sites[0].server.application = application
        client = Client(sites[0])
        client.sock.sendall(b"HEAD /socket.io/ HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n"
                            b"Connection: close\r\n\r\n")
        with gevent.Timeout(5):
            told = client.file.read()
        first, rest = told.split(b"\r\n\r\n", 1)
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n"), "the next answer follows the head"
        client.close()


@pytest.mark.parametrize("told", ["close", "Close, TE", "keep-alive\r\nConnection: close"])
def test_close_is_one_of_the_words(sites: tuple[Site, Site], told: str) -> None:
    client = Client(sites[0])
    client.sock.sendall(f"GET /socket.io/ HTTP/1.1\r\nHost: x\r\nConnection: {told}\r\n\r\n".encode())
    with gevent.Timeout(5):
        assert b"Connection: close\r\n" in client.file.read()
    client.close()


def test_a_request_of_nobodys_is_answered_where_it_came(sites: tuple[Site, Site]) -> None:
    client = Client(sites[0])
    assert client.ask("sid=0badcafeabc") == answer(ONE)
    client.close()


def test_pipelined_requests_are_not_torn_apart(sites: tuple[Site, Site]) -> None:
    client = Client(sites[0])
    client.sock.sendall(b"".join(f"GET /socket.io/?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                                 for query in ("EIO=4", f"sid={TWO}abc", f"sid={ONE}abc")))
    assert [client.read() for _ in range(3)] == [answer(ONE), answer(TWO), answer(ONE)]
    client.close()


def test_a_long_request_line_finds_its_owner(sites: tuple[Site, Site]) -> None:
    client = Client(sites[0])
    query = f"token={'t' * 60_000}&sid={TWO}abc"
    assert client.ask(query, "POST", b"x" * 50_000) == answer(TWO, b"x" * 50_000)
    client.close()


def test_a_request_line_that_is_too_long_is_told(sites: tuple[Site, Site]) -> None:
    client = Client(sites[0])
    client.send("x" * 66_000)
    with gevent.Timeout(5):
        told = client.file.read()
    assert told.startswith(b"HTTP/1.1 414 ") and b"a request line may have 65536 bytes" in told
    client.close()


def test_a_request_line_in_pieces_is_waited_for_without_work(sites: tuple[Site, Site]) -> None:
    """It was looked for every 5 ms: 800 connections with one byte took a core and a half."""
    clients = [Client(sites[0]) for _ in range(40)]
    for client in clients:
        client.sock.sendall(b"G")
    gevent.sleep(0.2)  # accepted
    before = time.process_time()
    gevent.sleep(1.0)
    assert time.process_time() - before < 0.1
    for client in clients:
        client.sock.sendall(f"ET /socket.io/?sid={TWO}abc HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.read() == answer(TWO)
        client.close()


def test_many_at_once(sites: tuple[Site, Site]) -> None:
    clients = [Client(sites[number % 2]) for number in range(40)]
    for number, client in enumerate(clients):
        client.send(f"sid={(ONE, TWO)[number // 2 % 2]}abc", "POST", b"%d" % number)
    for number, client in enumerate(clients):
        assert client.read() == answer((ONE, TWO)[number // 2 % 2], b"%d" % number)
        client.close()


def test_a_client_that_says_nothing_or_leaves(sites: tuple[Site, Site]) -> None:
    sites[0].server.request_timeout = 0.01
    silent = Client(sites[0])
    with gevent.Timeout(5):
        assert silent.sock.recv(10) == b""
    sites[0].server.request_timeout = 15.0
    Client(sites[0]).close()
    client = Client(sites[0])
    assert client.ask("EIO=4") == answer(ONE)
    client.close()


def test_a_kept_alive_connection_may_be_silent_for_longer(sites: tuple[Site, Site],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    sites[0].server.request_timeout = 0.1
    client = Client(sites[0])
    assert client.ask("EIO=4") == answer(ONE)
    gevent.sleep(0.3)
    monkeypatch.setattr(worker_module, "REQUEST_WAIT", 0.01)
    assert client.ask("EIO=4") == answer(ONE)
    with gevent.Timeout(5):
        assert client.sock.recv(10) == b""


def test_a_head_that_trickles_in_is_told_and_cut_off(sites: tuple[Site, Site]) -> None:
    late: list[int] = []
    sites[0].server.request_timeout = 0.2
    sites[0].server.on_timeout = lambda: late.append(1)
    for part in (b"GET /socket.io/", b"GET /socket.io/ HTTP/1.1\r\nHost: x\r\nX: "):
        client = Client(sites[0])
        client.sock.sendall(part)
        told = bytearray()
        with gevent.Timeout(5):
            while True:
                gevent.sleep(0.02)
                try:
                    client.sock.sendall(b"a")
                except OSError:
                    break
                if (seen := client.sock._sock.recv(1000, socket.MSG_DONTWAIT | socket.MSG_PEEK) if gevent.select.select(
                        [client.sock], [], [], 0)[0] else b"") or told:
                    told += seen
                    break
        assert told.startswith(b"HTTP/1.1 408 ")
        client.close()
    assert len(late) == 2


def test_a_body_that_trickles_in_is_cut_off(sites: tuple[Site, Site]) -> None:
    sites[0].server.request_timeout = 0.2
    client = Client(sites[0])
    client.sock.sendall(b"POST /socket.io/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    with gevent.Timeout(5):
        while client.sock.recv(1000):
            pass  # whatever the application makes of it, the connection ends
    client.close()


def test_a_slow_answer_is_not_a_slow_request(sites: tuple[Site, Site]) -> None:
    site = sites[0]
    site.server.request_timeout = 0.1
    answered = site.server.application

    def slowly(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        gevent.sleep(0.4)
        return site.answer(environ, start_response)
    site.server.application = slowly
    assert answered is not None
    client = Client(site)
    assert client.ask("EIO=4") == answer(ONE)
    assert client.ask("EIO=4", "POST", b"body") == answer(ONE, b"body")
    client.close()


def test_without_a_handoff_every_request_is_served_here(sites: tuple[Site, Site]) -> None:
    sites[0].server.handoff = None
    client = Client(sites[0])
    assert client.ask(f"sid={TWO}abc") == answer(ONE)
    client.close()


def test_several_services_in_one_process(tmp_path: Path) -> None:
    given: list[str] = []

    class Noting(Handoff):
        def give(self, owner: str, sock: Any, address: Any, early: bytes = b"") -> bool:
            given.append(owner)
            return True

    first, second = (Noting(tmp_path, token, lambda sock, address, early: None) for token in (ONE, TWO))
    several = SeveralHandoffs([first, second])
    assert several.owner_of(f"GET /?sid={ONE}x".encode()) is None
    assert several.owner_of(f"GET /?sid={TWO}x".encode()) is None
    assert several.owner_of(b"GET /?sid=0000000cx") == "0000000c"
    assert several.owner_of(b"GET /") is None
    assert several.give("0000000c", socket.socket(), ()) is True
    assert given == ["0000000c"]


def test_services_are_known_as_long_as_they_live() -> None:
    class Service:
        token, path_prefix = ONE, "/socket.io/"

    service: Any = Service()
    register(service)
    register(service)
    assert services().count(service) == 1
    del service
    gc.collect()
    assert not any(isinstance(found, Service) for found in services())


@pytest.mark.parametrize(("signal", "hurry"), [("handle_exit", False), ("handle_quit", True)])
def test_a_signal_ends_the_wait(signal: str, hurry: bool) -> None:
    told: Any = SimpleNamespace(alive=True, _wake=Event(), _hurry=False)
    told.handle_exit = lambda sig, frame: Worker.handle_exit(told, sig, frame)
    getattr(Worker, signal)(told, 15, None)
    assert told._wake.wait(5.0)
    assert (told.alive, told._hurry) == (False, hurry)


def test_a_signal_before_the_worker_runs() -> None:
    told: Any = SimpleNamespace(alive=True, _wake=None)
    Worker.handle_exit(told, 15, None)
    assert not told.alive
