"""Real TLS clients before tunnels under the hub: every byte, in order, both ways, and every kind of end."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest

from tests.certificate import Authority
from wsapp.certificates import server_context
from wsapp.core.throttle import Bucket
from wsapp.settings import load_settings
from wsapp.transport import tunnel as tunnel_module
from wsapp.transport.tunnel import TlsFront

PATIENCE = 10.0


def until(met: Callable[[], object]) -> None:
    with gevent.Timeout(PATIENCE):
        while not met():
            gevent.sleep(0.001)


def numbered(size: int) -> bytes:
    return b"".join(b"%09d," % number for number in range(size // 10))


class Place:
    """A front and its TLS clients."""

    def __init__(self, authority: Authority) -> None:
        signed = authority.sign("server")
        context = server_context(load_settings({"WSAPP_TLS_CERTIFICATE": str(signed.certificate),
                                                "WSAPP_TLS_KEY": str(signed.key)}))
        assert context is not None
        self.context, self.front = context, TlsFront(context)
        self.trust = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.trust.load_verify_locations(authority.path)
        self._opened: list[Any] = []

    def raw(self) -> tuple[Any, Any]:
        """A TCP connection: the accepted end, and the client's."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = gevent.socket.create_connection(listener.getsockname())
            accepted = gevent.socket.socket(fileno=listener.accept()[0].detach())
        self._opened += [client, accepted]
        return accepted, client

    def open(self) -> tuple[Any, Any]:
        """What is served, and the client."""
        accepted, client = self.raw()
        accepting = gevent.spawn(self.front.accept, accepted, PATIENCE)
        client = self.trust.wrap_socket(client, server_hostname="localhost")
        served = accepting.get(timeout=PATIENCE)
        self._opened += [client, served]
        return served, client

    def close(self) -> None:
        self.front.end()
        for sock in self._opened:
            sock.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def place(authority: Authority) -> Iterator[Place]:
    made = Place(authority)
    yield made
    made.close()


def read_all(sock: Any) -> bytes:
    return b"".join(iter(lambda: sock.recv(100_000), b""))


def read(sock: Any, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = sock.recv(min(size - len(found), 1_000_000))
        assert part, f"it ended after {len(found)} bytes"
        found += part
    return bytes(found)


def test_much_both_ways_at_once(place: Place) -> None:
    served, client = place.open()
    out, back = numbered(3_000_000), numbered(2_000_000)[::-1]
    sending = gevent.spawn(client.sendall, out), gevent.spawn(served.sendall, back)
    reading = gevent.spawn(read, served, len(out)), gevent.spawn(read, client, len(back))
    gevent.joinall([*sending, *reading], timeout=PATIENCE, raise_error=True)
    assert (reading[0].value, reading[1].value) == (out, back)


def test_small_ones_are_not_held_back(place: Place) -> None:
    served, client = place.open()
    with gevent.Timeout(PATIENCE):
        for number in range(50):
            client.sendall(b"%d" % number)
            assert served.recv(100) == b"%d" % number
            served.sendall(b"%d!" % number)
            assert client.recv(100) == b"%d!" % number


@pytest.mark.parametrize("reader", ["client", "server"])
def test_who_does_not_read_is_felt_on_the_other_side(place: Place, reader: str) -> None:
    served, client = place.open()
    reading, writing = (client, served) if reader == "client" else (served, client)
    much = numbered(30_000_000)
    sending = gevent.spawn(writing.sendall, much)
    gevent.sleep(0.3)
    assert not sending.ready()  # no more is kept than the kernel's buffers hold
    held = sum(len(tunnel._inward) + len(tunnel._outward) for tunnel in place.front._tunnels)
    assert held < 200_000
    with gevent.Timeout(PATIENCE):
        assert read(reading, len(much)) == much
        sending.get()
        reading.sendall(b"and back")
        assert read(writing, 8) == b"and back"


def test_what_was_taken_still_comes_when_the_server_has_left(place: Place) -> None:
    served, client = place.open()
    served.setblocking(False)
    written, part = b"", numbered(10_000)
    while True:
        try:
            written += part[:served.send(part)]
        except BlockingIOError:
            break
    served.close()
    with gevent.Timeout(PATIENCE):
        assert read_all(client) == written


@pytest.mark.parametrize("goodbye", ["unwrap", "shutdown"])
def test_the_client_leaves(place: Place, goodbye: str) -> None:
    served, client = place.open()
    client.sendall(b"last words")
    leaving = gevent.spawn(client.unwrap) if goodbye == "unwrap" else gevent.spawn(client.shutdown, socket.SHUT_WR)
    with gevent.Timeout(PATIENCE):
        assert read_all(served) == b"last words"
        served.close()
        leaving.get()
    until(lambda: not len(place.front))


def test_the_client_breaks_off(place: Place) -> None:
    served, client = place.open()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with gevent.Timeout(PATIENCE):
        assert served.recv(10) == b""
        with pytest.raises(BrokenPipeError):
            served.sendall(b"x")
    until(lambda: not len(place.front))


def test_the_server_leaves_with_bytes_unread(place: Place) -> None:
    served, client = place.open()
    client.suppress_ragged_eofs = False  # an end without close_notify would raise
    client.sendall(b"never read")
    gevent.socket.wait_read(served.fileno(), PATIENCE)
    served.sendall(b"last words")
    served.close()
    with gevent.Timeout(PATIENCE):
        assert read_all(client) == b"last words"
    client.close()
    until(lambda: not len(place.front))


def test_a_client_that_never_closes_is_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "LINGER", 0.05)
    served, client = place.open()
    served.close()
    until(lambda: not len(place.front))
    assert client.fileno() >= 0


def test_nonsense_behind_the_handshake(place: Place) -> None:
    served, client = place.open()
    client._sock.send(b"this is no record of TLS" * 10)
    with gevent.Timeout(PATIENCE):
        assert served.recv(10) == b""
        served.close()
        with pytest.raises(ssl.SSLError):
            read_all(client)


@pytest.mark.parametrize(("said", "told"), [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 "), (b"\x16\x03\x01\x00\x05hello", b"\x15\x03"),
    (b"", b"")])
def test_no_handshake(place: Place, said: bytes, told: bytes) -> None:
    accepted, client = place.raw()
    client.sendall(said)
    if not said:
        client.shutdown(socket.SHUT_WR)
    assert place.front.accept(accepted, PATIENCE) is None
    with gevent.Timeout(PATIENCE):
        found = read_all(client)
    assert found.startswith(told) and bool(found) == bool(told)
    assert not len(place.front)


def test_a_handshake_has_an_end(place: Place) -> None:
    accepted, client = place.raw()
    assert place.front.accept(accepted, 0.01) is None
    with gevent.Timeout(PATIENCE):
        assert client.recv(10) == b""


def test_one_handshake_too_many_is_told_before_anything_is_computed(place: Place,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    now, refused = [0.0], list[int]()
    place.front = TlsFront(place.context, Bucket(2.0, 2.0), lambda: refused.append(1), clock=lambda: now[0])
    silent, _ = place.raw()
    assert place.front.accept(silent, 0.01) is None, "who says nothing takes nobody's place"
    first, _ = place.open(), place.open()
    hands = list[object]()
    with monkeypatch.context() as patched:
        patched.setattr(tunnel_module, "shake_hands", lambda *given: hands.append(given))
        with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
            place.open()
    assert (refused, hands) == ([1], [])
    first[1].sendall(b"goes on")
    assert first[0].recv(10) == b"goes on"
    now[0] = 0.5
    place.open()


def test_the_end_of_the_worker(place: Place) -> None:
    opened = [place.open() for _ in range(3)]
    assert len(place.front) == 3
    place.front.end()
    place.front.end()
    assert not len(place.front)
    with gevent.Timeout(PATIENCE):
        assert [served.recv(10) for served, _ in opened] == [b""] * 3


def test_a_session_is_resumed(place: Place) -> None:
    served, first = place.open()
    served.sendall(b"x")
    first.recv(1)  # the tickets came with it
    accepted, client = place.raw()
    accepting = gevent.spawn(place.front.accept, accepted, PATIENCE)
    again = place.trust.wrap_socket(client, server_hostname="localhost", session=first.session)
    accepting.get(timeout=PATIENCE).close()
    assert again.session_reused
    again.close()
