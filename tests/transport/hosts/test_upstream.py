"""Connections to other workers: kept while they are of use, given up quickly when the other side is gone."""

from __future__ import annotations

import gevent
import gevent.socket
import pytest

from wsapp.transport.hosts import upstream as upstream_module
from wsapp.transport.hosts.route import Route, client_context
from wsapp.transport.hosts.upstream import Unreachable, Upstreams

TOKEN = "0000000b"


class Owner:
    """A listener that answers each line with `answer`."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") -> None:
        self.answer, self.accepted = answer, list[object]()
        self.listener = gevent.socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.route = Route(*self.listener.getsockname())
        self.accepting = gevent.spawn(self._accept)

    def _accept(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            self.accepted.append(sock)
            gevent.spawn(self._serve, sock)

    def _serve(self, sock: object) -> None:
        while sock.recv(100):  # type: ignore[attr-defined]
            sock.sendall(self.answer)  # type: ignore[attr-defined]

    def close(self) -> None:
        self.accepting.kill()
        self.listener.close()


@pytest.fixture
def owner() -> Owner:
    return Owner()


def asked(upstreams: Upstreams, owner: Owner) -> int:
    """One request and the code of its answer."""
    upstream = upstreams.take(TOKEN, owner.route)
    upstream.sock.sendall(b"x")
    code = upstream.answered()[0]
    upstreams.give_back(TOKEN, upstream)
    return code


def test_a_connection_is_used_again(owner: Owner) -> None:
    upstreams = Upstreams(client_context())
    assert [asked(upstreams, owner) for _ in range(5)] == [200] * 5
    assert len(owner.accepted) == 1
    upstreams.close()
    assert [asked(upstreams, owner) for _ in range(2)] == [200] * 2
    assert len(owner.accepted) == 2
    owner.close()


@pytest.mark.parametrize("late", ["", "HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_not_one_that_the_owner_has_closed_or_written_to(owner: Owner, late: str) -> None:
    upstreams = Upstreams(client_context())
    asked(upstreams, owner)
    first = owner.accepted[0]
    first.sendall(late.encode()) if late else first.shutdown(2)  # type: ignore[attr-defined]
    gevent.sleep(0.02)
    assert asked(upstreams, owner) == 200
    assert len(owner.accepted) == 2
    owner.close()


def test_nor_one_that_is_old(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    upstreams = Upstreams(client_context())
    asked(upstreams, owner)
    upstreams.tend()
    assert len(upstreams._idle[TOKEN]) == 1
    monkeypatch.setattr(upstream_module, "IDLE_FOR", 0.0)
    upstreams.tend()
    assert not upstreams._idle
    asked(upstreams, owner)
    assert len(owner.accepted) == 2
    owner.close()


def test_few_are_kept(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "MOST_IDLE", 2)
    upstreams = Upstreams(client_context())
    taken = [upstreams.take(TOKEN, owner.route) for _ in range(5)]
    for upstream in taken:
        upstreams.give_back(TOKEN, upstream)
    assert len(upstreams._idle[TOKEN]) == 2
    upstreams.close()
    owner.close()


def test_an_address_that_does_not_answer_is_not_tried_again_at_once(owner: Owner) -> None:
    now = 100.0
    upstreams = Upstreams(client_context(), lambda: now)
    owner.close()
    with pytest.raises(Unreachable, match="refused"):
        upstreams.take(TOKEN, owner.route)
    with pytest.raises(Unreachable, match="a moment ago"):
        upstreams.take(TOKEN, owner.route)
    now += 2
    upstreams.tend()
    with pytest.raises(Unreachable, match="refused"):
        upstreams.take(TOKEN, owner.route)


@pytest.mark.parametrize(("answer", "reason"), [
    (b"HTTP/1.1 2x0 OK\r\n\r\n", "no answer of HTTP/1.1"), (b"SSH-2.0-x\r\n", "no answer of HTTP/1.1"),
    (b"x" * 2000, "no answer of HTTP/1.1"), (b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n", "malformed")])
def test_an_answer_that_is_none(answer: bytes, reason: str) -> None:
    owner, upstreams = Owner(answer), Upstreams(client_context())
    with pytest.raises(Unreachable, match=reason):
        asked(upstreams, owner)
    owner.close()


def test_no_connection_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is cut off sends nothing, not even a refusal: 192.0.2.1 is nobody's (RFC 5737)."""
    monkeypatch.setattr(upstream_module, "CONNECT_TIMEOUT", 0.05)
    with gevent.Timeout(5), pytest.raises(Unreachable):
        Upstreams(client_context()).take(TOKEN, Route("192.0.2.1", 9))
