"""Hostile amounts: each limit with the error it tells, while somebody else's echo stays quick and memory stays flat."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import websocket

from tests.clients.fleet import Fleet
from tests.clients.raw_client import RawPolling, RawSocket
from tests.cluster.bystander import counted, undisturbed
from tests.harness import Reply, Server, http, wait_until
from tests.tokens import GUARDED, auth
from wsapp.transport.deflate import deflate

pytestmark = [pytest.mark.cluster, pytest.mark.node]

APP = "tests.apps.guarded:app"


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    """One worker with low limits, so that the flood and the bystander share it."""
    env = {**GUARDED, "WSAPP_MAX_INBOUND_PER_SEC": "20", "WSAPP_MAX_INBOUND_PER_USER": "50",
           "WSAPP_MAX_CONNECTIONS_PER_USER": "5", "WSAPP_MAX_CONNECTIONS_PER_ADDRESS": "3",
           "WSAPP_TRUSTED_PROXIES": "1", "WSAPP_REQUEST_TIMEOUT": "1", "WSAPP_CONNECT_TIMEOUT": "1.5"}
    with Server(1, app=APP, env=env) as server:
        yield server


def _send_until_closed(raw: RawSocket, data: bytes, codes: list[int], seconds: float = 20.0) -> None:
    """Push bytes as fast as the server takes them until it ends the connection, or its close frame was read."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if codes:
                return
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


def test_events_over_the_rate_are_told(one: Server, fleet: Fleet) -> None:
    with undisturbed(one, fleet), RawSocket(one, auth("chatty")) as raw:
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
        codes = _read(raw)
        _send_until_closed(raw, _frames(packet, 500), codes)
        wait_until(lambda: counted(one, "floodsClosed") == closed + 1, "the flood to be ended")
        raw.close()
    assert codes in ([], [1008]), "a client that does not read in time finds its connection reset instead"


def _read(raw: RawSocket) -> list[int]:
    """Read and drop everything, on a thread of its own; the code of the close frame, when it has come."""
    codes: list[int] = []

    def read() -> None:
        try:
            codes.append(raw.close_code())
        except (OSError, websocket.WebSocketException):
            return

    threading.Thread(target=read, daemon=True).start()
    return codes


@pytest.mark.parametrize("frames", [
    pytest.param(_frames("3", 2000), id="PONGs"),
    pytest.param(b"\x89\x80\0\0\0\0" * 2000, id="WebSocket PINGs"),
    pytest.param(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 2000, id="empty fragments"),
])
def test_tiny_frames_delay_nobody(one: Server, fleet: Fleet, frames: bytes) -> None:
    with undisturbed(one, fleet):
        raw = RawSocket(one, auth("tiny"))
        _read(raw)
        deadline = time.monotonic() + 1.5
        try:
            while time.monotonic() < deadline:
                raw.bytes(frames)
        except OSError:
            pass  # ended by the server: as good
        raw.close()


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


def test_connections_of_an_address(one: Server, fleet: Fleet) -> None:
    """One trusted proxy: what it says counts, what stands before it is the client's invention."""
    def knock(forwarded: str, path: str = "") -> Reply:
        return http(one.url + path if path else one.polling_url, headers={"X-Forwarded-For": forwarded})
    with undisturbed(one, fleet):
        assert [knock(f"10.0.0.{number}, 203.0.113.7").status for number in range(3)] == [200] * 3
        for number in range(50):
            refused = knock(f"10.9.9.{number}, 203.0.113.7")
        assert refused.status == 503
        assert refused.headers["retry-after"] == "5"
        assert "WSAPP_MAX_CONNECTIONS_PER_ADDRESS" in refused.json()["message"]
        stream = knock("203.0.113.7", "/api/v1/stream?rooms=agent:a")
        assert (stream.status, stream.json()["code"], stream.json()["retryable"]) == (429, "rate_limited", True)
        assert knock("203.0.113.7, 203.0.113.8").status == 200
    assert counted(one, "addressesRefused") >= 51
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


def test_handshakes_per_second(fleet: Fleet) -> None:
    env = {**GUARDED, "WSAPP_MAX_HANDSHAKES_PER_SEC": "5"}
    with Server(1, app=APP, env=env) as server, undisturbed(server, fleet):
        answers = [http(server.polling_url) for _ in range(40)]
        refused = [answer for answer in answers if answer.status == 503]
        assert len(refused) >= 10
        assert refused[0].headers["retry-after"] == "1"
        assert "WSAPP_MAX_HANDSHAKES_PER_SEC" in refused[0].json()["message"]
        streams = [http(f"{server.url}/api/v1/stream?rooms=agent:a") for _ in range(20)]
        told = [answer for answer in streams if answer.status == 429]
        assert told and told[0].headers["retry-after"] == "1"
        wait_until(lambda: http(server.polling_url).status == 200, "a place a little later")
        assert counted(server, "handshakesRefused") >= 10
        assert server.metric("wsapp_handshakes_refused_total") >= 10


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
        _read(raw)
        for _ in range(60):
            raw.send('42["no-such-event","' + "x" * 500_000 + '"]')
        raw.close()


def _compressed(text: str, count: int) -> bytes:
    """Masked and compressed text frames, many in one write."""
    body = deflate(text.encode(), 9)
    return (bytes([0xC1, 0xFE]) + len(body).to_bytes(2, "big") + bytes(4) + body) * count


@pytest.fixture(scope="module")
def deflating() -> Iterator[Server]:
    with Server(1, app=APP, env={**GUARDED, "WSAPP_DEFLATE": "on"}) as server:
        yield server


OFFER = {"header": ["Sec-WebSocket-Extensions: permessage-deflate"]}


@pytest.mark.parametrize("text", ["3" + "A" * 999_000, "3" + "A" * 60_000, '40{"token":"' + "A" * 60_000 + '"}'],
                         ids=["megabytes", "under the limit", "tokens"])
def test_a_bomb_of_a_stranger_delays_nobody(deflating: Server, fleet: Fleet, text: str) -> None:
    """61 kB on one connection without a token took 4.1 s of everybody's."""
    with undisturbed(deflating, fleet):
        for _ in range(5):
            raw = RawSocket(deflating, connect=False, **OFFER)
            raw.bytes(_compressed(text, 61_000 // len(_compressed(text, 1))))
            raw.send("1")  # goodbye, behind all of them
            assert raw.close_code() in (1000, 1002, 1008, 1009)
            raw.close()


def test_a_bomb_of_a_user_has_turns_like_all_others(deflating: Server, fleet: Fleet) -> None:
    with undisturbed(deflating, fleet, grows=80e6):
        raw = RawSocket(deflating, auth("bomber"), **OFFER)
        _read(raw)
        taken = counted(deflating, "messagesReceived")
        raw.bytes(_compressed('42["no-such-event","' + "x" * 990_000 + '"]', 120))
        wait_until(lambda: counted(deflating, "messagesReceived") >= taken + 120, "all to be judged")
        raw.close()
    assert counted(deflating, "inboundRefused") >= 80, "a megabyte counts as 61 packets"


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


@pytest.mark.parametrize("packets", [
    pytest.param(['421["subscribe-agent","a"]', '422["unsubscribe-agent","a"]'], id="joins"),
    pytest.param(['431[]'], id="acknowledgements"),
    pytest.param(['42["ack-event","0000000000000"]'], id="answers to critical events"),
    pytest.param(['42["history",{"room":"agent:a"}]'], id="histories"),
    pytest.param(['42["host-echo",1]'], id="events")])
def test_what_is_within_the_limits_delays_nobody_either(many: Server, fleet: Fleet, packets: list[str]) -> None:
    """Five clients of five users at once, each with the whole burst that a client may have."""
    with undisturbed(many, fleet):
        raws = [RawSocket(many, auth(f"burst-{number}")) for number in range(5)]
        for raw in raws:
            _read(raw)
        for _ in range(19):
            for raw in raws:
                raw.bytes(b"".join(_frames(packet, 100 // len(packets)) for packet in packets))
        began = counted(many, "messagesReceived")
        wait_until(lambda: counted(many, "messagesReceived") >= 5 * 1900 or began < 0, "all to be taken")
        for raw in raws:
            raw.close()
    assert counted(many, "floodsClosed") == 0


@pytest.fixture(scope="module")
def many() -> Iterator[Server]:
    """One worker with the limits that it has by default."""
    with Server(1, app=APP, env=GUARDED) as server:
        yield server


def test_who_asks_for_much_and_reads_nothing_is_closed(fleet: Fleet) -> None:
    """Histories of megabytes on a socket that is not read: bounded, and ended; see test_stream.py for plain HTTP."""
    env = {**GUARDED, "WSAPP_OUTBOX_BYTES": "1000000"}
    with Server(1, app=APP, env=env) as server:
        for number in range(40):
            server.emitter.broadcast_agent_thought({"agentId": "big", "thought": "x" * 100_000, "n": number})
        with undisturbed(server, fleet, grows=80e6):
            raws = [RawSocket(server, auth("deaf"), sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
                    for _ in range(4)]
            for raw in raws:
                raw.send('421["subscribe-agent","big"]')

            def only_the_bystander() -> bool:
                for raw in raws:
                    with suppress(OSError):  # closed already
                        raw.send('422["history",{"room":"agent:big","limit":1000}]')
                return bool(server.get("/worker").json()["activeConnections"] == 1)

            wait_until(only_the_bystander, "only the bystander is left")
            for raw in raws:
                assert raw.close_code() == 4000
