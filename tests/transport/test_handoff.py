"""Two workers in one process: connections change hands over real sockets, with every unread byte."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

from wsapp.transport import handoff as handoff_module
from wsapp.transport.handoff import Handoff, has_buffered, request_reader, take_buffered

ONE, TWO = "0000000a", "0000000b"
REQUEST = b"GET /socket.io/?EIO=4&transport=polling&sid=0000000bAbC-_ HTTP/1.1\r\nHost: x\r\n\r\n"


def until(met: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not met():
            gevent.sleep(0.001)


def pair() -> tuple[Any, socket.socket]:
    """The server's end as a worker holds it, and the client's."""
    ours, client = socket.socketpair()
    client.settimeout(5)
    return gevent.socket.socket(fileno=ours.detach()), client


class Workers:
    def __init__(self, directory: Path) -> None:
        self.served: list[tuple[bytes, Any]] = []
        self.one = Handoff(directory, ONE, self.serve)
        self.two = Handoff(directory, TWO, self.serve)
        self.one.start()
        self.two.start()

    def serve(self, sock: Any, address: Any, early: bytes) -> None:
        asked = early or sock.recv(4096)
        self.served.append((asked, address))
        sock.sendall(b"answer to " + asked[:3])


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    directory = tmp_path / "w"
    directory.mkdir(mode=0o700)
    made = Workers(directory)
    yield made
    made.one.stop()
    made.two.stop()
    assert not list(directory.iterdir())


def test_a_connection_is_served_by_its_owner_with_its_unread_bytes(workers: Workers) -> None:
    ours, client = pair()
    client.sendall(REQUEST)
    reader = request_reader(ours)
    line = reader.readline()
    assert workers.one.owner_of(line) == TWO
    assert workers.one.give(TWO, ours, ("10.0.0.1", 4321), line + take_buffered(reader))
    ours.close()
    until(lambda: workers.served)
    assert workers.served == [(REQUEST, ("10.0.0.1", 4321))]
    assert client.recv(100) == b"answer to GET"
    assert client.recv(100) == b""  # no copy is left open
    assert (workers.one.given, workers.two.taken) == (1, 1)


@pytest.mark.parametrize(("address", "told"), [
    (("127.0.0.1", 80), ("127.0.0.1", 80)), (("::1", 80, 0, 0), ("::1", 80, 0, 0)), ("", "")])
def test_the_address_of_the_client_goes_along(workers: Workers, address: Any, told: Any) -> None:
    ours, client = pair()
    client.sendall(b"x")
    assert workers.one.give(TWO, ours, address)
    ours.close()
    until(lambda: workers.served)
    assert workers.served == [(b"x", told)]
    client.close()


def test_more_at_once_than_the_queue_holds(workers: Workers) -> None:
    clients, givers = [], []
    for number in range(40):
        ours, client = pair()
        client.sendall(b"%03d" % number)
        clients.append(client)

        def give(sock: Any = ours) -> None:
            assert workers.one.give(TWO, sock, ("10.0.0.1", 1))
            sock.close()
        givers.append(gevent.spawn(give))
    gevent.joinall(givers, timeout=5, raise_error=True)
    until(lambda: len(workers.served) == 40)
    assert sorted(asked for asked, _ in workers.served) == [b"%03d" % number for number in range(40)]
    for number, client in enumerate(clients):
        assert client.recv(100) == b"answer to %03d" % number
        client.close()


def test_an_owner_that_is_gone_or_never_was(workers: Workers) -> None:
    ours, client = pair()
    assert not workers.one.give("0badcafe", ours, ("10.0.0.1", 1))
    workers.two.stop()
    assert not workers.one.give(TWO, ours, ("10.0.0.1", 1))
    client.sendall(b"still mine")
    assert ours.recv(100) == b"still mine"
    assert workers.one.given == 0
    ours.close()
    client.close()


def test_an_owner_that_died_without_a_word(workers: Workers, tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = tmp_path / "w" / "deadbeef.sock"
    dead.bind(str(path))
    dead.close()
    ours, client = pair()
    assert not workers.one.give("deadbeef", ours, ("10.0.0.1", 1))
    path.unlink()
    ours.close()
    client.close()


def test_an_owner_that_hangs_is_not_waited_for_for_ever(workers: Workers, monkeypatch: pytest.MonkeyPatch,
                                                      tmp_path: Path) -> None:
    monkeypatch.setattr(handoff_module, "GIVE_PATIENCE", 0.02)
    path = tmp_path / "w" / "aaaaaaaa.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(path))
        ours, client = pair()
        given = 0
        while workers.one.give("aaaaaaaa", ours, "", b"x" * 70_000):
            given += 1
        assert given == workers.one.given > 0
    path.unlink()
    ours.close()
    client.close()


@pytest.mark.parametrize(("line", "owner"), [
    (b"GET /socket.io/?EIO=4&sid=0000000bxyz HTTP/1.1", TWO),
    (b"POST /socket.io/?sid=0000000bxyz&EIO=4 HTTP/1.1", TWO),
    (b"GET /socket.io/?EIO=4&sid=0000000axyz HTTP/1.1", None),
    (b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1", None),
    (b"GET /socket.io/?EIO=4&sid=short HTTP/1.1", None),
    (b"GET /socket.io/?EIO=4&sid=0000000b HTTP/1.1", None),
    (b"GET /socket.io/?EIO=4&sid=../../etc/x HTTP/1.1", None),
    (b"GET /socket.io/?EIO=4&sid=0000000Bxyz HTTP/1.1", None),
    (b"GET /socket.io/?EIO=4&nosid=0000000bxyz HTTP/1.1", None),
    (b"GET /socket.io/?next=/x?sid=0000000bxyz HTTP/1.1", None),
    (b"GET /socket.io/?EIO=4&s%69d=%30000000bxyz HTTP/1.1", TWO),
    (b"GET /socket.io/?sid=&sid=0000000bxyz HTTP/1.1", TWO),
    (b"GET /socket.io/?sid=0000000axyz&sid=0000000bxyz HTTP/1.1", None),
    (b"GET /socket.io/?token=" + b"t" * 60_000 + b"&sid=0000000bxyz HTTP/1.1", TWO),
    (b"", None),
    (b"\xff\x00", None),
])
def test_whose_a_request_is(workers: Workers, line: bytes, owner: str | None) -> None:
    assert workers.one.owner_of(line) == owner


def test_a_socket_that_somebody_removed_is_made_again(workers: Workers, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "w")
    ours, client = pair()
    assert not workers.one.give(TWO, ours, ("10.0.0.1", 1))
    workers.one.heal()
    workers.two.heal()
    client.sendall(b"x")
    assert workers.one.give(TWO, ours, ("10.0.0.1", 1))
    ours.close()
    until(lambda: workers.served)
    client.close()


def test_one_that_cannot_be_made_is_tried_again(workers: Workers, tmp_path: Path,
                                                caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "w"
    shutil.rmtree(directory)
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    workers.two.heal()
    assert "do not reach this one" in caplog.text
    directory.chmod(0o700)
    workers.two.heal()
    assert (directory / f"{TWO}.sock").exists()


def test_what_was_read_early_comes_first() -> None:
    ours, client = pair()
    reader = request_reader(ours, b"first\n" + b"x" * 20_000 + b"\nthi")
    client.sendall(b"rd\n")
    assert has_buffered(reader)
    assert [reader.readline(), reader.readline(), reader.readline()] == [b"first\n", b"x" * 20_000 + b"\n", b"third\n"]
    reader.close()
    ours.close()
    client.close()


def test_a_pipelined_request_is_seen_in_the_buffer_and_the_socket_left_alone() -> None:
    ours, client = pair()
    reader = request_reader(ours)
    assert not has_buffered(reader)
    client.sendall(b"first\nsecond\n")
    assert not has_buffered(reader)
    assert reader.readline() == b"first\n"
    assert has_buffered(reader)
    assert has_buffered(reader)
    assert reader.readline() == b"second\n"
    client.sendall(b"third\n")
    gevent.sleep(0)
    assert not has_buffered(reader)
    assert reader.readline() == b"third\n"
    reader.close()
    ours.close()
    client.close()


def test_stopping_twice_and_before_starting(tmp_path: Path) -> None:
    never = Handoff(tmp_path, ONE, lambda sock, address, early: None)
    never.stop()
    assert tmp_path.exists()
