"""Hostile amounts: each limit with the error it tells, while somebody else's echo stays quick and memory stays flat."""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import websocket

from tests.clients.fleet import Fleet
from tests.clients.raw_client import RawPolling, RawSocket
from tests.clients.recorder import Recorder
from tests.harness import Reply, Server, http, wait_until
from tests.tokens import GUARDED, auth

pytestmark = [pytest.mark.cluster, pytest.mark.node]

APP = "tests.apps.guarded:app"
TYPICAL = 0.1  # seconds: the bound, held by the median
WORST = 1.0  # seconds: the machine that tests run on is shared


class Bystander:
    """Echoes all the time on a thread of its own, and notes how long each took."""

    def __init__(self, client: Recorder) -> None:
        self.client, self.took = client, list[float]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._echo, daemon=True)
        self._thread.start()

    def _echo(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            began = time.monotonic()
            if self.client.request("host-echo", number) == number:
                self.took.append(time.monotonic() - began)
            time.sleep(0.01)

    def check(self) -> None:
        wait_until(lambda: len(self.took) >= 5, "the bystander to be served")
        self._over.set()
        self._thread.join(30)
        assert statistics.median(self.took) < TYPICAL
        assert max(self.took) < WORST
        assert not self.client.all("disconnect")


@contextmanager
def undisturbed(server: Server, fleet: Fleet, grows: float = 40e6) -> Iterator[None]:
    """Somebody is served as ever meanwhile, and no worker grows by more than `grows` bytes."""
    before = _memory(server)
    bystander = Bystander(fleet.npm(server, auth=auth("bystander")))
    yield
    bystander.check()
    assert _memory(server) - before < grows


def _memory(server: Server) -> int:
    return max(int(psutil.Process(pid).memory_info().rss) for pid in server.worker_pids())


def counted(server: Server, name: str) -> int:
    return int(server.get("/worker").json()[name])


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    """One worker with low limits, so that the flood and the bystander share it."""
    env = {**GUARDED, "WSAPP_MAX_INBOUND_PER_SEC": "20", "WSAPP_MAX_INBOUND_PER_USER": "50",
           "WSAPP_MAX_CONNECTIONS_PER_USER": "5", "WSAPP_MAX_CONNECTIONS_PER_ADDRESS": "3",
           "WSAPP_TRUSTED_PROXIES": "1", "WSAPP_REQUEST_TIMEOUT": "1", "WSAPP_CONNECT_TIMEOUT": "1.5"}
    with Server(1, app=APP, env=env) as server:
        yield server


def _send_until_closed(raw: RawSocket, data: bytes, seconds: float = 20.0) -> None:
    """Push bytes as fast as the server takes them until it ends the connection."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            raw.bytes(data)
            time.sleep(0.001)  # whoever reads the answers in this process gets a turn
    except OSError:
        return
    pytest.fail("the flood was never ended")


def _frames(text: str, count: int) -> bytes:
    """Masked text frames, many in one write (mask 0: RFC 6455 section 5.3 does not forbid it)."""
    body = text.encode()
    return (bytes([0x81, 0x80 | len(body), 0, 0, 0, 0]) + body) * count


def _answer(raw: RawSocket) -> Any:
    """The next acknowledgement, whichever it is."""
    packet = raw.packet("43")
    return json.loads(packet[packet.index("["):])[0]


def test_events_over_the_rate_are_told(one: Server) -> None:
    with RawSocket(one, auth("chatty")) as raw:
        for number in range(300):
            raw.send(f'42{number}["host-echo",{number}]')
        answers = [_answer(raw) for _ in range(300)]
        refused = [answer["error"] for answer in answers if isinstance(answer, dict)]
        assert 40 <= len(refused) <= 110, "the burst is ten times the rate of 20"
        assert refused[0]["code"] == "rate_limited"
        assert refused[0]["retryable"] is True
        time.sleep(0.2)
        assert raw.request('["host-echo","again"]') == "again", "and it is let in again"


@pytest.mark.parametrize("packet", ['42["host-echo",1]', '421["subscribe-agent","a"]', '431[]', '42["no-such-event"]',
                                    '421["connect"]'])
def test_a_flood_is_closed_1008_and_delays_nobody(one: Server, fleet: Fleet, packet: str) -> None:
    closed = counted(one, "floodsClosed")
    with undisturbed(one, fleet):
        raw = RawSocket(one, auth("flood"))
        reader = threading.Thread(target=_drain, args=(raw,), daemon=True)
        reader.start()
        _send_until_closed(raw, _frames(packet, 500))
        reader.join(10)
    assert counted(one, "floodsClosed") == closed + 1
    assert CODES.pop() == 1008


CODES: list[int] = []  # that drained floods were closed with


def _drain(raw: RawSocket) -> None:
    try:
        CODES.append(raw.close_code())
    except (OSError, websocket.WebSocketException):
        return


@pytest.mark.parametrize("frames", [
    pytest.param(_frames("3", 2000), id="PONGs"),
    pytest.param(b"\x89\x80\0\0\0\0" * 2000, id="WebSocket PINGs"),
    pytest.param(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 2000, id="empty fragments"),
])
def test_tiny_frames_delay_nobody(one: Server, fleet: Fleet, frames: bytes) -> None:
    with undisturbed(one, fleet):
        raw = RawSocket(one, auth("tiny"))
        threading.Thread(target=_drain, args=(raw,), daemon=True).start()
        deadline = time.monotonic() + 1.5
        try:
            while time.monotonic() < deadline:
                raw.bytes(frames)
        except OSError:
            pass  # ended by the server: as good
        raw.close()
    CODES.clear()


def test_one_user_with_many_sessions_is_one_user(one: Server, fleet: Fleet) -> None:
    with undisturbed(one, fleet):
        raws = [RawSocket(one, auth("many")) for _ in range(4)]
        for raw in raws:
            for number in range(190):  # each within its own burst of 200, together over the user's 500
                raw.send(f'42{number}["host-echo",{number}]')
        refused = sum(isinstance(_answer(raw), dict) for raw in raws for _ in range(190))
        assert 100 <= refused <= 265
        for raw in raws:
            raw.close()


def test_connections_of_a_user(one: Server, fleet: Fleet) -> None:
    with undisturbed(one, fleet):
        raws = [RawSocket(one, auth("tabs")) for _ in range(5)]
        more = RawSocket(one, connect=False)
        more.send("40" + json.dumps(auth("tabs")))
        told = json.loads(more.packet("44")[2:])
        assert told["data"]["code"] == "limit"
        assert "WSAPP_MAX_CONNECTIONS_PER_USER" in told["message"]
        RawSocket(one, auth("another")).close()
        raws.pop().close()
        wait_until(lambda: _connects(one, "tabs"), "room for one")
        for raw in (*raws, more):
            raw.close()
    assert counted(one, "usersRefused") >= 1


def _connects(server: Server, user: str) -> bool:
    raw = RawSocket(server, connect=False)
    raw.send("40" + json.dumps(auth(user)))
    told = raw.packet("4")
    raw.close()
    return told.startswith("40")


def test_connections_of_an_address(one: Server) -> None:
    """One trusted proxy: what it says counts, what stands before it is the client's invention."""
    def knock(forwarded: str) -> Reply:
        return http(one.polling_url, headers={"X-Forwarded-For": forwarded})
    assert [knock(f"10.0.0.{number}, 203.0.113.7").status for number in range(3)] == [200] * 3
    refused = knock("10.9.9.9, 203.0.113.7")
    assert refused.status == 503
    assert refused.headers["retry-after"] == "5"
    assert "WSAPP_MAX_CONNECTIONS_PER_ADDRESS" in refused.json()["message"]
    assert knock("203.0.113.7, 203.0.113.8").status == 200
    assert counted(one, "addressesRefused") >= 1
    wait_until(lambda: knock("203.0.113.7").status == 200, "the idle ones to be closed, and room for another")


def test_a_transport_that_joins_nothing_is_closed(one: Server, fleet: Fleet) -> None:
    with undisturbed(one, fleet):
        raw = RawSocket(one, connect=False)
        assert raw.close_code() == 1008
        refused = RawSocket(one, connect=False)
        refused.send("40{}")
        refused.packet("44")
        assert refused.close_code() == 1008
    assert counted(one, "idleClosed") >= 2


def test_handshakes_per_second() -> None:
    with Server(1, env={"WSAPP_MAX_HANDSHAKES_PER_SEC": "5"}) as server:
        bystander = RawSocket(server)
        answers = [http(server.polling_url) for _ in range(40)]
        refused = [answer for answer in answers if answer.status == 503]
        assert len(refused) >= 10
        assert refused[0].headers["retry-after"] == "1"
        assert "WSAPP_MAX_HANDSHAKES_PER_SEC" in refused[0].json()["message"]
        assert bystander.request('["update-metadata",{"a":1}]')["ok"] is True
        wait_until(lambda: http(server.polling_url).status == 200, "a place a little later")
        assert "wsapp_handshakes_refused" in server.get("/metrics").text


def _slowly(server: Server, head: bytes, drip: bytes) -> bytes:
    """Everything a server says to a request that trickles in."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as sock:
        sock.sendall(head)
        told, deadline = b"", time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                got = sock.recv(4096)
                told += got
                if not got:
                    return told
            except TimeoutError:
                sock.sendall(drip)
            except ConnectionError:
                return told
    pytest.fail("a slow request was never cut off")


@pytest.mark.parametrize("head", [b"GET /socket.io/?EIO=4", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ",
                                  b"POST /any HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_a_slow_head_is_cut_off(one: Server, fleet: Fleet, head: bytes) -> None:
    with undisturbed(one, fleet):
        assert _slowly(one, head, b"a").startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_is_cut_off(one: Server, fleet: Fleet) -> None:
    polling = RawPolling(one)
    path = polling._url.removeprefix(one.url)
    with undisturbed(one, fleet):
        told = _slowly(one, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n4".encode(), b"a")
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"WSAPP_REQUEST_TIMEOUT" in told
    assert counted(one, "requestsTimedOut") >= 1


def test_a_hundred_silent_sockets_are_let_go(one: Server, fleet: Fleet) -> None:
    with undisturbed(one, fleet):
        socks = [socket.create_connection(("127.0.0.1", one.port), timeout=20) for _ in range(100)]
        assert [sock.recv(10) for sock in socks] == [b""] * 100
        for sock in socks:
            sock.close()


def test_attachments_together(one: Server, fleet: Fleet) -> None:
    """Each within the size of a message, together over it."""
    with undisturbed(one, fleet), RawSocket(one, auth("binary")) as raw:
        holders = ",".join(f'{{"_placeholder":true,"num":{number}}}' for number in range(4))
        raw.send(f'454-["host-echo",{holders}]')
        for _ in range(4):
            raw._ws.send_binary(b"x" * 400_000)
        assert raw.close_code() == 1002


def test_big_messages_wait_unhandled_up_to_a_limit(fleet: Fleet) -> None:
    env = {**GUARDED, "WSAPP_INBOX_BYTES": "1000000"}
    with Server(1, app=APP, env=env) as server, undisturbed(server, fleet, grows=80e6):
        raw = RawSocket(server, auth("big"))
        threading.Thread(target=_drain, args=(raw,), daemon=True).start()
        for _ in range(60):
            raw.send('42["no-such-event","' + "x" * 500_000 + '"]')
        raw.close()


def test_garbage_of_one_is_no_matter_to_others(one: Server, fleet: Fleet) -> None:
    deep = '42["host-echo",' + "[" * 2000 + "]" * 2000 + "]"
    with undisturbed(one, fleet):
        for text in (deep, "42{", '42["x",NaN]', "9", "4", "451-[]", '40{"token":' + "[" * 500, '45999999-["a"]'):
            raw = RawSocket(one, connect=False)
            raw.send("40" + json.dumps(auth("garbage")))
            raw.packet("40")
            raw.send(text)
            assert raw.close_code() == 1002, text[:40]


def test_rooms_of_a_session(fleet: Fleet) -> None:
    with Server(1, app=APP, env={**GUARDED, "WSAPP_MAX_ROOMS": "3"}) as server, undisturbed(server, fleet):
        client = fleet.python(server, auth=auth("joiner"))
        for number in range(3):
            client.subscribe("agent", str(number))
        told: Any = client.request("subscribe-agent", "one more")
        assert told["error"]["code"] == "limit"
        assert "WSAPP_MAX_ROOMS" in told["error"]["message"]
