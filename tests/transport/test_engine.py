"""The Engine.IO server's HTTP face: every request judged before anything is done for it."""

from __future__ import annotations

import gzip
import io
import json
import socket
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.socket
import pytest

from tests.transport.test_connection import got
from tests.transport.test_frames import sent
from tests.transport.test_websocket import KEY
from wsapp.transport.connection import Connection, let_in
from wsapp.transport.engine import TOKEN_LENGTH, Engine, EngineOptions, Hooks
from wsapp.transport.frames import TEXT, Frame, encode, encode_close
from wsapp.transport.gate import Gate, GateOptions
from wsapp.transport.origins import Origins


class Answer:
    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, dict[str, str](), b""

    def start(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers = int(status[:3]), dict(headers)

    @property
    def code(self) -> int:
        """Engine.IO's error code."""
        told = json.loads(self.body)
        assert set(told) == {"code", "message"}
        found: int = told["code"]
        return found


class Server:
    def __init__(self, allowed: tuple[str, ...] = (), gate: Gate | None = None, **options: Any) -> None:
        self.opened: list[str] = []
        self.handled: list[Any] = []
        self.ended: list[str] = []
        self.engine = Engine(EngineOptions(**options), Origins(allowed), Hooks(
            opened=lambda connection, environ: self.opened.append(connection.sid),
            read=lambda connection, payload: payload,
            handle=lambda connection, item: self.handled.append(item),
            closed=lambda connection, reason: self.ended.append(reason)), gate)

    def ask(self, query: str, method: str = "GET", body: bytes = b"", **environ: Any) -> Answer:
        answer = Answer()
        asked = {"REQUEST_METHOD": method, "QUERY_STRING": query, "wsgi.input": io.BytesIO(body),
                 "CONTENT_LENGTH": str(len(body)), "HTTP_HOST": "app.example", "SERVER_PROTOCOL": "HTTP/1.1",
                 "wsapp.handler": SimpleNamespace(), **environ}
        asked = {name: value for name, value in asked.items() if value is not None}
        told: Iterable[bytes] = self.engine.handle_request(asked, answer.start)
        answer.body = b"".join(told)
        return answer

    def hello(self) -> str:
        """A new polling session."""
        sid: str = json.loads(self.ask("EIO=4&transport=polling").body[1:])["sid"]
        return sid


@pytest.fixture
def server() -> Server:
    return Server()


def test_the_handshake() -> None:
    server = Server(ping_interval=2.5, ping_timeout=0.25, max_message=5000)
    answer = server.ask("EIO=4&transport=polling")
    told = json.loads(answer.body[1:])
    assert (answer.status, answer.body[:1]) == (200, b"0")
    assert answer.headers["Content-Type"] == "text/plain; charset=UTF-8"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert told == {"sid": server.opened[0], "upgrades": ["websocket"], "pingInterval": 2500, "pingTimeout": 250,
                    "maxPayload": 5000}
    assert told["sid"].startswith(server.engine.token)
    assert len(server.engine.token) == TOKEN_LENGTH


def test_no_upgrade_is_offered_where_none_is_possible(server: Server) -> None:
    outside: dict[str, Any] = {"wsapp.handler": None}
    told = json.loads(server.ask("EIO=4&transport=polling", **outside).body[1:])
    assert told["upgrades"] == []


def test_a_token_is_of_a_process(server: Server) -> None:
    before = server.engine.token
    server.engine.renew_token()
    assert server.engine.token != before
    assert server.hello().startswith(server.engine.token)


@pytest.mark.parametrize(("query", "method", "status", "code"), [
    ("", "GET", 400, 5), ("EIO=3&transport=polling", "GET", 400, 5), ("transport=polling", "GET", 400, 5),
    ("EIO=4", "GET", 400, 0), ("EIO=4&transport=smoke", "GET", 400, 0),
    ("EIO=4&transport=polling&sid=unknown", "GET", 400, 1), ("EIO=4&transport=polling&sid=unknown", "POST", 400, 1),
    ("EIO=4&transport=websocket&sid=unknown", "GET", 400, 3),
    ("EIO=4&transport=polling", "POST", 400, 2), ("EIO=4&transport=polling", "DELETE", 400, 2),
    ("EIO=4&transport=websocket", "GET", 400, 3), ("EIO=4&transport=websocket", "POST", 400, 3),
])
def test_refused(server: Server, query: str, method: str, status: int, code: int) -> None:
    answer = server.ask(query, method)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert server.opened == []


def test_another_protocol_is_told_what_it_needs_logged_and_counted(server: Server,
                                                                   caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    server.engine.hooks.count = counted.append
    for _ in range(50):
        told = json.loads(server.ask("EIO=3&transport=polling").body)["message"]
    assert "EIO='3' is Socket.IO 2.x" in told and "needs EIO=4: Socket.IO 3 or 4" in told
    assert counted == ["versionsRefused"] * 50
    assert told in caplog.text
    assert len(caplog.messages) < 20


def test_another_method_on_a_session(server: Server) -> None:
    answer = server.ask(f"EIO=4&transport=polling&sid={server.hello()}", "PUT")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST, OPTIONS")


def test_polling_both_ways(server: Server) -> None:
    query = f"EIO=4&transport=polling&sid={server.hello()}"
    answer = server.ask(query, "POST", b"4hello")
    assert (answer.status, answer.body) == (200, b"ok")
    gevent.sleep(0)
    assert server.handled == ["hello"]
    connection = server.engine.sockets[server.opened[0]]
    connection.push(Frame(b"4a"))
    connection.push(Frame(b"4b"))
    assert server.ask(query).body == b"4a\x1e4b"


def test_a_long_answer_is_compressed_for_those_who_take_it(server: Server) -> None:
    query = f"EIO=4&transport=polling&sid={server.hello()}"
    connection = server.engine.sockets[server.opened[0]]
    frame = Frame(b"4" + b"x" * 5000)
    connection.push(frame)
    assert server.ask(query).body == frame.payload
    connection.push(frame)
    answer = server.ask(query, HTTP_ACCEPT_ENCODING="gzip, br")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert gzip.decompress(answer.body) == frame.payload


@pytest.mark.parametrize(("environ", "status"), [
    ({"CONTENT_LENGTH": ""}, 411), ({"CONTENT_LENGTH": "-1"}, 411), ({"CONTENT_LENGTH": "x"}, 411),
    ({"CONTENT_LENGTH": "\u00b2"}, 411), ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
    ({"CONTENT_LENGTH": "1001"}, 413), ({"CONTENT_LENGTH": "99999999999"}, 413), ({"CONTENT_LENGTH": "10"}, 400),
])
def test_a_post_of_a_wrong_length(environ: dict[str, str], status: int) -> None:
    server = Server(max_message=1000)
    answer = server.ask(f"EIO=4&transport=polling&sid={server.hello()}", "POST", b"4short", **environ)
    assert answer.status == status
    gevent.sleep(0)
    assert server.handled == []


def test_a_drained_worker_says_so_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.engine.draining = True
    for _ in range(5):
        assert server.ask("EIO=4&transport=polling").status == 503
    assert [line.partition(": it leaves")[0] for line in caplog.messages] == [
        "refused a client: this worker takes nobody in"], "once a minute, not per client"


def test_a_post_that_is_garbage_is_told_so(server: Server) -> None:
    sid = server.hello()
    answer = server.ask(f"EIO=4&transport=polling&sid={sid}", "POST", b"garbage")
    assert (answer.status, answer.code) == (400, 3)
    assert len(server.ended) == 1
    assert server.ask(f"EIO=4&transport=polling&sid={sid}").code == 1


def test_a_full_worker_says_when_to_come_back(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(gate=Gate(GateOptions(connections=2)))
    sids = [server.hello(), server.hello()]
    for query in ("EIO=4&transport=polling", "EIO=4&transport=websocket"):
        answer = server.ask(query, HTTP_UPGRADE="websocket")
        assert (answer.status, answer.code) == (503, 4)
        assert int(answer.headers["Retry-After"]) > 0
    assert [line for line in caplog.messages if "full" in line] == [
        "refused a client: the worker is full: 2 connections (MAX_CONNECTIONS)"], "once a minute, not per client"
    server.ask(f"EIO=4&transport=polling&sid={sids[0]}", "POST", b"1")
    assert server.ask("EIO=4&transport=polling").status == 200


def test_what_has_not_joined_makes_room() -> None:
    now = [0.0]
    server = Server(gate=Gate(GateOptions(connections=4), clock=lambda: now[0]))
    attacker = [json.loads(server.ask("EIO=4&transport=polling", REMOTE_ADDR="10.0.0.1").body[1:])["sid"]
                for _ in range(4)]
    assert server.ask("EIO=4&transport=polling", REMOTE_ADDR="10.0.0.1").status == 503
    newcomer = json.loads(server.ask("EIO=4&transport=polling", REMOTE_ADDR="10.0.0.2").body[1:])["sid"]
    assert attacker[0] not in server.engine.sockets
    assert server.engine.gate.open == len(server.engine.sockets) == 4
    let_in(server.engine.sockets[newcomer])
    now[0] = 10.0
    assert server.ask("EIO=4&transport=polling", REMOTE_ADDR="10.0.0.1").status == 200, "an old one goes"
    for sid in list(server.engine.sockets):
        let_in(server.engine.sockets[sid])
    assert server.ask("EIO=4&transport=polling", REMOTE_ADDR="10.0.0.3").status == 503, "who has joined stays"


def test_a_draining_worker_takes_nobody_new_and_serves_its_own(server: Server) -> None:
    sid = server.hello()
    server.engine.draining = True
    assert server.ask("EIO=4&transport=polling").status == 503
    assert server.ask(f"EIO=4&transport=polling&sid={sid}", "POST", b"4x").status == 200


def test_origins_are_judged_before_everything() -> None:
    server = Server(allowed=("https://a.example",))
    answer = server.ask("EIO=4&transport=polling", HTTP_ORIGIN="https://evil.example")
    assert (answer.status, answer.code, server.opened) == (403, 4, [])
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert server.ask("EIO=4&transport=websocket", HTTP_ORIGIN="https://evil.example", **upgrade()).status == 403
    assert server.ask("EIO=4&transport=polling", HTTP_ORIGIN="https://a.example").headers[
        "Access-Control-Allow-Origin"] == "https://a.example"
    refused = server.ask("EIO=4&transport=smoke", HTTP_ORIGIN="https://a.example")
    assert refused.headers["Access-Control-Allow-Origin"] == "https://a.example"  # else the page could not read why


def test_a_preflight(server: Server) -> None:
    answer = server.ask("EIO=4&transport=polling", "OPTIONS", HTTP_ORIGIN="https://app.example")
    assert (answer.status, answer.body) == (204, b"")
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert server.opened == []


# -- WebSocket


def upgrade(**changes: Any) -> dict[str, Any]:
    return {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade", "HTTP_SEC_WEBSOCKET_VERSION": "13",
            "HTTP_SEC_WEBSOCKET_KEY": KEY, **changes}


def handler() -> tuple[Any, socket.socket]:
    """What pywsgi's handler is to the engine, and its client."""
    ours, client = socket.socketpair()
    client.setblocking(False)
    sock = gevent.socket.socket(fileno=ours.detach())
    return SimpleNamespace(socket=sock, rfile=io.BufferedReader(gevent.socket.SocketIO(sock, "rb"), 8192)), client


def switched(client: socket.socket) -> None:
    """Read the 101."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head


def test_a_websocket_from_the_start(server: Server) -> None:
    served, client = handler()
    server.ask("EIO=4&transport=websocket", **upgrade(), **{"wsapp.handler": served})
    switched(client)
    sid = server.opened[0]
    hello = server.engine._hello(sid, [])
    got(client, hello.ws)
    client.send(sent(TEXT, b"4hi"))
    with gevent.Timeout(5):
        while not server.handled:
            gevent.sleep(0.001)
    assert server.handled == ["hi"]
    assert server.ask(f"EIO=4&transport=polling&sid={sid}").code == 3
    server.engine.disconnect(sid)
    assert server.ended == ["server disconnect"]
    client.close()


def test_an_upgrade_once(server: Server) -> None:
    sid = server.hello()
    served, client = handler()
    server.ask(f"EIO=4&transport=websocket&sid={sid}", **upgrade(), **{"wsapp.handler": served})
    switched(client)
    second(server, sid)
    client.send(sent(TEXT, b"2probe"))
    got(client, encode(b"3probe"))
    client.send(sent(TEXT, b"5"))
    with gevent.Timeout(5):
        while not server.engine.sockets[sid].upgraded:
            gevent.sleep(0.001)
    assert server.opened == [sid]
    second(server, sid)
    assert not server.engine.sockets[sid].closed
    client.close()


def second(server: Server, sid: str) -> None:
    """A further WebSocket of a session is accepted and closed (Engine.IO v4, "WebSocket")."""
    served, client = handler()
    server.ask(f"EIO=4&transport=websocket&sid={sid}", **upgrade(), **{"wsapp.handler": served})
    switched(client)
    got(client, encode_close(1002, "the session has a WebSocket already"))
    client.close()


@pytest.mark.parametrize(("changes", "status"), [
    ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, 426), ({"HTTP_SEC_WEBSOCKET_KEY": "x"}, 400), ({"HTTP_CONNECTION": ""}, 400),
    ({"SERVER_PROTOCOL": "HTTP/1.0"}, 400), ({"wsapp.handler": None}, 500),
])
def test_a_handshake_that_is_none_is_refused_before_the_upgrade(server: Server, changes: dict[str, Any],
                                                               status: int) -> None:
    answer = server.ask("EIO=4&transport=websocket", **upgrade(**changes))
    assert (answer.status, server.opened) == (status, [])


def test_an_upgrade_of_an_unknown_session(server: Server) -> None:
    assert server.ask("EIO=4&transport=websocket&sid=unknown", **upgrade()).code == 1


def test_disconnecting_all_or_nobody(server: Server) -> None:
    server.hello()
    server.hello()
    server.engine.disconnect("unknown")
    assert server.ended == []
    server.engine.disconnect()
    assert len(server.ended) == 2


def test_every_connection_gets_its_heartbeat() -> None:
    server = Server(ping_interval=0.02, ping_timeout=0.02)
    server.engine.start()
    try:
        sid = server.hello()
        assert server.ask(f"EIO=4&transport=polling&sid={sid}").body == b"2"
        with gevent.Timeout(5):
            while not server.ended:
                gevent.sleep(0.001)
    finally:
        server.engine.shutdown()
    assert server.ended == ["ping timeout"]
    assert server.ask(f"EIO=4&transport=polling&sid={sid}").code == 1


def test_a_wrong_message_closes_and_a_bug_does_not(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    connection: Connection = server.engine.sockets[server.hello()]

    def bug(connection: Connection, item: Any) -> None:
        raise RuntimeError("a bug")

    server.engine.hooks.handle = bug
    server.engine.deliver(connection, "x")
    assert "could not be handled" in caplog.text
    assert not connection.closed
