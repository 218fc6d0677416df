"""Two workers in one process: connections change hands over real sockets, with every unread byte."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

from wsapp.transport import handoff as handoff_module
from wsapp.transport.handoff import Handoff, directory_for, has_buffered, peek_request_line, request_reader

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

    def serve(self, sock: Any, address: Any) -> None:
        asked = sock.recv(4096)
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
    assert not directory.exists()  # the last one out


def test_a_connection_is_served_by_its_owner_with_its_unread_bytes(workers: Workers) -> None:
    ours, client = pair()
    client.sendall(REQUEST)
    line = peek_request_line(ours, 1.0)
    assert line == REQUEST.split(b"\n")[0]
    assert workers.one.owner_of(line) == TWO
    assert workers.one.give(TWO, ours, ("10.0.0.1", 4321))
    ours.close()
    until(lambda: workers.served)
    assert workers.served == [(REQUEST, ("10.0.0.1", 4321))]
    assert client.recv(100) == b"answer to GET"
    assert client.recv(100) == b""  # no copy is left open
    assert (workers.one.given, workers.two.taken) == (1, 1)


@pytest.mark.parametrize(("address", "told"), [
    (("127.0.0.1", 80), ("127.0.0.1", 80)), (("::1", 80, 0, 0), ("::1", 80)), ("", ()), ((), ()), (None, ())])
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
        while workers.one.give("aaaaaaaa", ours, ()):
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
    (b"", None),
    (b"\xff\x00", None),
])
def test_whose_a_request_is(workers: Workers, line: bytes, owner: str | None) -> None:
    assert workers.one.owner_of(line) == owner


# -- looking without reading


def test_peeking_reads_nothing() -> None:
    ours, client = pair()
    client.sendall(REQUEST)
    assert peek_request_line(ours, 1.0) == peek_request_line(ours, 1.0)
    assert ours.recv(4096) == REQUEST
    ours.close()
    client.close()


def test_peeking_waits_for_the_whole_line() -> None:
    ours, client = pair()
    client.sendall(b"GET /soc")
    peeking = gevent.spawn(peek_request_line, ours, 5.0)
    gevent.sleep(0.01)
    assert not peeking.ready()
    client.sendall(b"ket.io/ HTTP/1.1\r\n")
    assert peeking.get(timeout=5) == b"GET /socket.io/ HTTP/1.1\r"
    ours.close()
    client.close()


def test_peeking_has_an_end() -> None:
    ours, client = pair()
    with pytest.raises(TimeoutError):
        peek_request_line(ours, 0.01)
    client.sendall(b"GET /")
    assert peek_request_line(ours, 0.01) == b"GET /"
    client.sendall(b"x" * 4096)
    assert len(peek_request_line(ours, 5.0)) == handoff_module.PEEK_SIZE
    ours.recv(8192)
    client.close()
    assert peek_request_line(ours, 5.0) == b""
    ours.close()


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


# -- the directory


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_the_directory_is_ours_alone(temporary: Path) -> None:
    path = directory_for(77)
    assert path == directory_for(77) == temporary / f"wsapp-{os.getuid()}-77"
    assert path.stat().st_mode & 0o777 == 0o700
    assert directory_for(78) != path


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o755, 0o777])
def test_a_loose_one_is_refused(temporary: Path, mode: int) -> None:
    directory_for(77).chmod(mode)
    with pytest.raises(PermissionError, match="remove it"):
        directory_for(77)


def test_a_foreign_one_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    with pytest.raises(PermissionError):
        directory_for(77)


def test_a_link_is_refused(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"wsapp-{os.getuid()}-77").symlink_to(temporary / "elsewhere")
    with pytest.raises(PermissionError):
        directory_for(77)


def test_stopping_twice_and_before_starting(tmp_path: Path) -> None:
    never = Handoff(tmp_path, ONE, lambda sock, address: None)
    never.stop()
    assert tmp_path.exists()
