"""`environ["wsgi.websocket"]` as a host application uses it; the frames themselves are judged in tests/cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.socket
import pytest
from geventwebsocket.exceptions import WebSocketError

from tests.transport.test_frames import sent
from tests.transport.test_websocket import request, until
from wsapp.transport.frames import BINARY, CLOSE, PING, PONG, TEXT, encode, encode_close
from wsapp.transport.guest import GuestOptions, HostSocket, invite, turn_away, wants_websocket
from wsapp.transport.handoff import request_reader
from wsapp.transport.origins import Origins
from wsapp.transport.websocket import HandshakeError

Application = Callable[[dict[str, Any], Any], Any]


class Visit:
    """A client's end, and the application that runs at the other."""

    def __init__(self, application: Application, options: GuestOptions | None = None, **changes: Any) -> None:
        ours, self.client = socket.socketpair()
        self.client.settimeout(0)
        served = gevent.socket.socket(fileno=ours.detach())
        self.environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/here", **request(**changes)}
        self.started: list[Any] = []
        handler = SimpleNamespace(socket=served, rfile=request_reader(served), environ=self.environ,
                                  application=application)
        invite(handler, options or GuestOptions())
        self.running = gevent.spawn(lambda: handler.application(self.environ, self.start))
        self._seen = b""

    def start(self, status: str, _headers: Any) -> Callable[[bytes], None]:
        self.started.append(status)
        return lambda data: None

    def get(self, wanted: bytes) -> None:
        def come() -> bool:
            try:
                self._seen += self.client.recv(65536)
            except BlockingIOError:
                pass
            return len(self._seen) >= len(wanted)
        until(come)
        assert self._seen[:len(wanted)] == wanted
        self._seen = self._seen[len(wanted):]

    def head(self) -> str:
        until(lambda: self._came() and b"\r\n\r\n" in self._seen)
        found, _, self._seen = self._seen.partition(b"\r\n\r\n")
        return found.decode()

    def _came(self) -> bool:
        try:
            self._seen += self.client.recv(65536)
        except BlockingIOError:
            return bool(self._seen)
        return True

    def send(self, *frames: bytes) -> None:
        self.client.sendall(b"".join(frames))


def echo(environ: dict[str, Any], _start: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message)
    return []


@pytest.fixture
def visit() -> Iterator[Visit]:
    made = Visit(echo)
    made.head()
    yield made
    made.client.close()
    made.running.kill()


def test_what_a_route_learns() -> None:
    def look(environ: dict[str, Any], _start: Any) -> list[bytes]:
        ws: HostSocket = environ["wsgi.websocket"]
        seen.extend((ws.path, ws.origin, ws.protocol, ws.version, ws.closed, ws.opened,
                     environ["wsgi.websocket_version"]))
        return []

    seen: list[Any] = []
    Visit(look, HTTP_ORIGIN="http://a", HTTP_SEC_WEBSOCKET_PROTOCOL="x, y").running.join(5)
    assert seen == ["/here", "http://a", "x, y", "13", False, False, "13"]


def test_text_and_binary_come_back(visit: Visit) -> None:
    visit.send(sent(TEXT, "é".encode()), sent(BINARY, b"\0\1"), sent(PING, b"?"), sent(CLOSE, b"\x03\xe8"))
    visit.get(encode("é".encode()) + encode(b"\0\1", BINARY) + encode(b"?", PONG) + encode_close(1000))
    visit.running.join(5)
    assert visit.running.successful()
    assert visit.started == []


def test_a_ping_is_answered_while_the_route_does_other_things() -> None:
    def busy(environ: dict[str, Any], _start: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("hello")
        gevent.sleep(30)
        return []

    made = Visit(busy)
    made.head()
    made.get(encode(b"hello"))
    made.send(sent(PING, b"?"))
    made.get(encode(b"?", PONG))
    made.running.kill()
    made.get(encode_close(1012, "the server restarts"))


def test_the_end_is_told_once_and_then_raised() -> None:
    def read(environ: dict[str, Any], _start: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        seen.append(ws.receive())
        for again in (ws.receive, lambda: ws.send("x")):
            with pytest.raises(WebSocketError):
                again()
        ws.close()
        seen.append(ws.closed)
        return []

    seen: list[Any] = []
    made = Visit(read)
    made.head()
    made.client.close()
    made.running.get(timeout=5)
    assert seen == [None, True]


def test_a_route_closes_with_a_code() -> None:
    def leave(environ: dict[str, Any], _start: Any) -> list[bytes]:
        environ["wsgi.websocket"].close(4321, b"enough")
        return []

    made = Visit(leave)
    made.head()
    made.send(sent(TEXT, b"late"))
    made.get(encode_close(4321, "enough"))
    made.running.get(timeout=5)


def test_a_route_that_fails_is_1011(caplog: pytest.LogCaptureFixture) -> None:
    def fail(environ: dict[str, Any], _start: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("x")
        raise KeyError("oh")

    made = Visit(fail)
    made.head()
    made.get(encode(b"x") + encode_close(1011))
    made.running.get(timeout=5)
    assert "'/here' failed" in caplog.text


def test_a_route_that_does_not_use_it_answers_in_http() -> None:
    def plain(_environ: dict[str, Any], start: Any) -> list[bytes]:
        start("404 Not Found", [])
        return [b"no"]

    made = Visit(plain)
    assert made.running.get(timeout=5) == [b"no"]
    assert made.started == ["404 Not Found"]


def test_a_response_after_the_upgrade_goes_nowhere_and_is_closed() -> None:
    class Answer(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def both(environ: dict[str, Any], start: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("x")
        start("200 OK", [])(b"written")
        return Answer([b"body"])

    closed: list[bool] = []
    made = Visit(both)
    assert made.running.get(timeout=5) == []
    assert (made.started, closed) == ([], [True])


def test_send_waits_for_a_slow_reader_and_gives_one_up_that_does_not_read() -> None:
    def flood(environ: dict[str, Any], _start: Any) -> list[bytes]:
        while True:
            environ["wsgi.websocket"].send(b"x" * 100_000)
            sizes.append(1)

    sizes: list[int] = []
    made = Visit(flood, GuestOptions(max_age=0.2))
    assert made.running.get(timeout=10) == [], "the error ended the route"
    assert 0 < len(sizes) < 100


def test_a_subprotocol_is_chosen_as_gevent_websocket_does() -> None:
    class Resource:
        def app_protocol(self, path: str) -> str:
            return "y" if path == "/here" else ""

        def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
            return echo(environ, start)

    assert "Sec-WebSocket-Protocol: y" in Visit(Resource(), HTTP_SEC_WEBSOCKET_PROTOCOL="x, y").head()
    assert "Protocol:" not in Visit(Resource(), HTTP_SEC_WEBSOCKET_PROTOCOL="xy").head()


def test_compression_only_where_it_is_switched_on() -> None:
    offer = {"HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate; server_max_window_bits=10"}
    assert "Extensions" not in Visit(echo, **offer).head()
    assert "permessage-deflate; server_max_window_bits=10" in Visit(echo, GuestOptions(deflate=True), **offer).head()


def test_what_asks_for_a_websocket() -> None:
    assert wants_websocket({"REQUEST_METHOD": "GET", **request()})
    assert not wants_websocket({"REQUEST_METHOD": "POST", **request()})
    assert not wants_websocket({"REQUEST_METHOD": "GET", **request(HTTP_UPGRADE="h2c")})
    assert not wants_websocket({"REQUEST_METHOD": "GET", **request(HTTP_CONNECTION="close")})


def test_a_page_from_elsewhere_is_turned_away() -> None:
    """Cross-site WebSocket hijacking: the browser would send the victim's cookies along."""
    options = GuestOptions(judge=Origins().judge)
    Visit(echo, options, HTTP_HOST="app.example", HTTP_ORIGIN="https://app.example")
    Visit(echo, options, HTTP_HOST="app.example")
    with pytest.raises(HandshakeError, match="WEBSOCKET_CORS_ORIGIN") as refused:
        Visit(echo, options, HTTP_HOST="app.example", HTTP_ORIGIN="https://evil.example")
    assert refused.value.status == "403 Forbidden"


def test_a_wrong_handshake_is_answered_in_http() -> None:
    with pytest.raises(HandshakeError) as refused:
        Visit(echo, HTTP_SEC_WEBSOCKET_VERSION="8")
    told: list[Any] = []
    body = turn_away(refused.value)({}, lambda status, headers: told.extend((status, dict(headers))))
    assert told[0].startswith("426")
    assert told[1]["Sec-WebSocket-Version"] == "13"
    assert int(told[1]["Content-Length"]) == len(b"".join(body))
