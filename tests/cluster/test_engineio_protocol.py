"""Engine.IO protocol v4, sentence by sentence, on two real workers without a sticky balancer.

Source: docs/engine.io-protocol/v4-current.md of the socketio/socket.io repository; the numbers are those of the
reference server's error table.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse

import pytest
import websocket

from tests.clients.raw_client import RawPolling, RawSocket, close_code
from tests.cluster.conftest import Witness
from tests.harness import DEADLINE, Reply, Server, http, wait_until

pytestmark = pytest.mark.cluster

MOMENT = 0.1  # seconds in which a request gets from here to a worker
TRANSPORT, SID, METHOD, REQUEST, FORBIDDEN, VERSION = range(6)


@pytest.fixture(autouse=True)
def _bystanders(witness: Witness) -> Iterator[None]:
    yield
    witness.undisturbed()


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def ask(server: Server, query: str, method: str = "GET", data: bytes | None = None) -> Reply:
    return http(f"{server.url}/socket.io/?{query}", data, method=method)


def code(reply: Reply) -> int:
    told = reply.json()
    assert set(told) == {"code", "message"}
    assert isinstance(told["message"], str)
    return int(told["code"])


def waiting(server: Server, polling: RawPolling, threads: ThreadPoolExecutor) -> Future[Reply]:
    """A GET that is under way: what was there has been taken, its request was sent, and a moment has passed."""
    polling.post('40/nowhere,\x1e40')
    seen = ""
    while '42["auth"' not in seen:
        seen += polling.get().text
    link = HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    link.request("GET", f"/socket.io/?EIO=4&transport=polling&sid={polling.sid}")
    time.sleep(MOMENT)
    with RawSocket(server):  # and the workers have had to do with others
        pass
    return threads.submit(answer_of, link)


def answer_of(link: HTTPConnection) -> Reply:
    with closing(link):
        got = link.getresponse()
        return Reply(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())


def gone(server: Server, polling: RawPolling) -> None:
    """The session is not known any more, by no transport."""
    assert code(polling.get()) == SID
    assert code(polling.post("3")) == SID
    assert code(ask(server, f"EIO=4&transport=websocket&sid={polling.sid}")) in (SID, REQUEST)


# -- handshake


def test_open_packet_by_polling(conformance: Server) -> None:
    reply = ask(conformance, "EIO=4&transport=polling")
    assert (reply.status, reply.text[0], reply.headers["content-type"]) == (200, "0", "text/plain; charset=UTF-8")
    told = json.loads(reply.text[1:])
    assert set(told) == {"sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"}
    assert isinstance(told.pop("sid"), str)
    assert told == {"upgrades": ["websocket"], "pingInterval": 1000, "pingTimeout": 1500, "maxPayload": 1_000_000}


def test_open_packet_by_websocket(conformance: Server) -> None:
    with RawSocket(conformance, connect=False) as raw:
        assert set(raw.opened) == {"sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"}
        assert (raw.opened["upgrades"], raw.opened["maxPayload"]) == ([], 1_000_000)


@pytest.mark.parametrize(("query", "method", "expected"), [
    ("transport=polling", "GET", VERSION), ("EIO=3&transport=polling", "GET", VERSION),
    ("EIO=abc&transport=polling", "GET", VERSION), ("EIO=&transport=polling", "GET", VERSION),
    ("EIO=5&transport=polling", "GET", VERSION), ("EIO=4", "GET", TRANSPORT), ("EIO=4&transport=", "GET", TRANSPORT),
    ("EIO=4&transport=abc", "GET", TRANSPORT), ("EIO=4&transport=webtransport", "GET", TRANSPORT),
    ("EIO=4&transport=polling", "POST", METHOD), ("EIO=4&transport=polling", "PUT", METHOD),
    ("EIO=4&transport=polling", "DELETE", METHOD), ("EIO=4&transport=websocket", "GET", REQUEST),
    ("EIO=4&transport=websocket", "POST", REQUEST), ("EIO=4&transport=polling&sid=abc", "GET", SID),
    ("EIO=4&transport=polling&sid=abc", "POST", SID), ("EIO=4&transport=polling&sid=00000000abcdef", "GET", SID),
])
def test_wrong_handshakes_are_400_with_their_number(conformance: Server, query: str, method: str,
                                                    expected: int) -> None:
    reply = ask(conformance, query, method, b"4hi" if method in ("POST", "PUT") else None)
    assert (reply.status, code(reply)) == (400, expected)


@pytest.mark.parametrize("query", ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4",
                                   "EIO=4&transport=abc", "EIO=4&transport=websocket&sid=abc"])
def test_wrong_websocket_handshakes_open_nothing(conformance: Server, query: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(f"ws://127.0.0.1:{conformance.port}/socket.io/?{query}", timeout=DEADLINE)
    assert refused.value.status_code == 400


def test_foreign_pages_are_forbidden(conformance: Server) -> None:
    reply = http(conformance.polling_url, headers={"Origin": "https://evil.example"})
    assert (reply.status, code(reply)) == (403, FORBIDDEN)


# -- HTTP long polling


def test_a_post_is_answered_ok_and_a_get_brings_what_waits(conformance: Server) -> None:
    polling = RawPolling(conformance)
    reply = polling.post("40")
    assert (reply.status, reply.text) == (200, "ok")
    connect, greeting = polling.get().text.split("\x1e")
    assert connect.startswith('40{"sid":')
    assert greeting == '42["auth",{}]'


def test_packets_of_a_payload_are_taken_in_order(conformance: Server) -> None:
    polling = RawPolling(conformance)
    sent = [f'42["message",{number}]' for number in range(20)]
    assert polling.post("\x1e".join(["40", *sent])).text == "ok"
    got: list[str] = []
    while len(got) < 20:
        got += [packet for packet in polling.get().text.split("\x1e") if packet.startswith('42["message-back"')]
    assert got == [f'42["message-back",{number}]' for number in range(20)]


def test_binary_travels_as_base64_both_ways(conformance: Server) -> None:
    polling = RawPolling(conformance)
    assert polling.post('40\x1e451-["message",{"_placeholder":true,"num":0}]\x1ebAQIDBA==').text == "ok"
    seen = ""
    while "bAQIDBA==" not in seen:
        seen += polling.get().text + "\x1e"
    assert '451-["message-back",{"_placeholder":true,"num":0}]\x1ebAQIDBA==' in seen


def test_two_gets_at_once_end_the_session(conformance: Server, threads: ThreadPoolExecutor) -> None:
    polling = RawPolling(conformance)
    first = waiting(conformance, polling, threads)
    second = polling.get()
    told, refused = sorted((first.result(DEADLINE), second), key=lambda reply: reply.status)
    assert (told.text, refused.status, code(refused)) == ("1", 400, REQUEST)
    gone(conformance, polling)


def test_two_posts_at_once_end_the_session(conformance: Server) -> None:
    polling = RawPolling(conformance)
    head = (f"POST /socket.io/?EIO=4&transport=polling&sid={polling.sid} HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 2\r\n\r\n").encode()
    with closing(socket.create_connection(("127.0.0.1", conformance.port), DEADLINE)) as slow:
        slow.sendall(head + b"4")
        second = wait_until(lambda: _refused(polling.post("3")), "the second POST is refused")
        assert code(second) in (REQUEST, SID)
        slow.sendall(b"0")
    gone(conformance, polling)


def _refused(reply: Reply) -> Reply | None:
    return reply if reply.status == 400 else None


def test_a_get_that_is_hung_up_ends_the_session(conformance: Server) -> None:
    polling = RawPolling(conformance)
    link = HTTPConnection("127.0.0.1", conformance.port, timeout=DEADLINE)
    link.request("GET", f"/socket.io/?EIO=4&transport=polling&sid={polling.sid}")
    link.close()
    # Its POSTs prove that the session ended by itself: another GET would end it too.
    wait_until(lambda: polling.post("3").status == 400, "the session has ended")
    gone(conformance, polling)


@pytest.mark.parametrize("body", [b"abc", b"", b"0", b"2", b"5", b"6", b"7", b"9x", b"b", b"bAQI", b"b!!!!", b"4\xff",
                                  b"\xff", b"3\x1e", b"\x1e", b"\x1e\x1e", "€".encode(), b"B"])
def test_wrong_packets_end_the_session(conformance: Server, body: bytes) -> None:
    polling = RawPolling(conformance)
    polling.post("40")
    reply = polling.post(body)
    assert (reply.status, code(reply)) == (400, REQUEST)
    gone(conformance, polling)


def test_what_came_before_a_wrong_packet_is_not_undone_and_nothing_after_it_is_taken(conformance: Server) -> None:
    polling = RawPolling(conformance)
    assert polling.post("40\x1ezzz\x1e40/custom,").status == 400
    gone(conformance, polling)


def raw_post(server: Server, sid: str, head: str, body: bytes) -> Reply:
    """A POST whose head is written by hand."""
    with closing(socket.create_connection(("127.0.0.1", server.port), DEADLINE)) as sock:
        sock.sendall(f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        sock.sendall(body)
        answer = HTTPResponse(sock)
        answer.begin()
        read = answer.read()
        assert answer.status == 200 or sock.recv(1) == b"", "told, and closed"
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, read)


@pytest.mark.parametrize(("head", "body", "status"), [
    ("Content-Length: 1\r\nContent-Length: 2\r\n", b"3", 400),
    ("Content-Length: 1\r\nContent-Length: 1\r\n", b"3", 400),
    ("Content-Length: 1, 1\r\n", b"3", 400),
    ("Content-Length: +1\r\n", b"3", 400), ("Content-Length: -1\r\n", b"", 400), ("Content-Length: 0x1\r\n", b"", 400),
    ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"1\r\n3\r\n0\r\n\r\n", 400),
    ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", b"1\r\n3\r\n0\r\n\r\n", 400),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"", 501),
    ("Transfer-Encoding: gzip, chunked\r\n", b"", 501), ("Transfer-Encoding: xchunked\r\n", b"", 501),
    ("Transfer-Encoding : chunked\r\n", b"", 400), ("Content-Length : 1\r\n", b"3", 400),
    ("X: a\r\n folded\r\nContent-Length: 1\r\n", b"3", 400), ("X: a\rContent-Length: 1\r\n\r\n", b"3", 400),
    ("Host: y\r\nContent-Length: 1\r\n", b"3", 400), ("no colon\r\nContent-Length: 1\r\n", b"3", 400),
    ("Transfer-Encoding: chunked\r\n", b"1\r\n3\r\n0\r\n\r\n", 411), ("", b"", 411),
    ("Content-Length: 1000001\r\n", b"4", 413),
    ("".join(f"X-{number}: y\r\n" for number in range(200)) + "Content-Length: 1\r\n", b"", 431),
])
def test_requests_whose_length_is_in_doubt_are_told_and_closed(conformance: Server, head: str, body: bytes,
                                                               status: int) -> None:
    polling = RawPolling(conformance)
    assert raw_post(conformance, polling.sid, head, body).status == status


def test_a_giant_ends_the_session_before_it_is_read(conformance: Server) -> None:
    polling = RawPolling(conformance)
    assert raw_post(conformance, polling.sid, "Content-Length: 5000000\r\n", b"4").status == 413
    gone(conformance, polling)


@pytest.mark.parametrize("line", ["GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 x", "GET / HTTP/2.0", "GET / FTP/1.1",
                                  "G(T / HTTP/1.1", "/ HTTP/1.1", " GET / HTTP/1.1", "\x16\x03\x01"])
def test_a_request_line_that_is_none_is_told_and_closed(conformance: Server, line: str) -> None:
    with closing(socket.create_connection(("127.0.0.1", conformance.port), DEADLINE)) as sock:
        sock.sendall(f"{line}\r\nHost: x\r\n\r\n".encode())
        answer = HTTPResponse(sock)
        answer.begin()
        assert answer.status == 400
        answer.read()
        assert sock.recv(1) == b""


@pytest.mark.parametrize("path", ["/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=3", "/healthz", "/nowhere"])
def test_head_is_answered_without_a_body(conformance: Server, path: str) -> None:
    """RFC 9110 section 9.3.2; what comes behind the head would be taken for the next answer."""
    with closing(socket.create_connection(("127.0.0.1", conformance.port), DEADLINE)) as sock:
        sock.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n"
                     "Connection: close\r\n\r\n".encode())
        told = b""
        while got := sock.recv(65536):
            told += got
    assert told.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200 ")


def test_who_asks_for_the_end_of_a_connection_is_told_it(conformance: Server) -> None:
    """RFC 9112 section 9.6; a pooling client would use it again otherwise."""
    assert http(conformance.url + "/healthz", headers={"Connection": "close"}).headers["connection"] == "close"


# -- WebSocket


@pytest.mark.parametrize("text", ["abc", "0", "2", "5", "6", "7", "", "4abc", "4", "47"])
def test_wrong_packets_close_the_websocket(conformance: Server, text: str) -> None:
    with RawSocket(conformance, connect=False) as raw:
        raw.send(text)
        assert raw.close_code() == 1002


def test_a_packet_over_max_payload_closes_the_websocket(conformance: Server) -> None:
    with RawSocket(conformance, connect=False) as raw:
        raw.send("4" + "x" * raw.opened["maxPayload"])
        assert raw.close_code() == 1009


# -- heartbeat


def test_a_polling_client_that_answers_stays(conformance: Server) -> None:
    polling = RawPolling(conformance)
    polling.post("40")
    polling.get()
    for _ in range(3):
        assert polling.get().text == "2"
        assert polling.post("3").text == "ok"


def test_a_websocket_that_answers_stays(conformance: Server) -> None:
    with RawSocket(conformance) as raw:
        for _ in range(3):
            raw.packet("2")
        raw.send('427["message-with-ack","here"]')
        assert raw.packet("437") == '437["here"]'


def test_a_polling_client_that_is_silent_is_gone(conformance: Server) -> None:
    polling = RawPolling(conformance)
    polling.post("40")
    wait_until(lambda: polling.get().status == 400, "the PONG is overdue")
    gone(conformance, polling)


def test_a_websocket_that_is_silent_is_closed(conformance: Server) -> None:
    with RawSocket(conformance, connect=False) as raw:
        assert raw.close_code() == 4001


# -- close


def test_close_by_post(conformance: Server, threads: ThreadPoolExecutor) -> None:
    polling = RawPolling(conformance)
    pending = waiting(conformance, polling, threads)
    assert polling.post("1").text == "ok"
    assert pending.result(DEADLINE).text == "6"
    gone(conformance, polling)


def test_close_by_post_beside_a_get(conformance: Server, threads: ThreadPoolExecutor) -> None:
    """Sent at the same time, over two connections, to two workers: whichever comes first, both are answered."""
    for _ in range(5):
        polling = RawPolling(conformance)
        both = [threads.submit(polling.get), threads.submit(polling.post, "1")]
        assert [answer.result(DEADLINE).text for answer in both] == ["6", "ok"]
        gone(conformance, polling)


def test_close_by_websocket(conformance: Server) -> None:
    with RawSocket(conformance, connect=False) as raw:
        raw.send("1")
        assert raw.close_code() == 1000


# -- upgrade


def probe(server: Server, polling: RawPolling) -> websocket.WebSocket:
    return websocket.create_connection(f"{server.socket_url}&sid={polling.sid}", timeout=DEADLINE)


def test_upgrade(conformance: Server, threads: ThreadPoolExecutor) -> None:
    polling = RawPolling(conformance)
    pending = waiting(conformance, polling, threads)
    with closing(probe(conformance, polling)) as ws:
        ws.send("2probe")
        assert ws.recv() == "3probe"
        assert pending.result(DEADLINE).text == "6"
        polling.post('42["message","while both are there"]')
        ws.send("5")
        assert ws.recv() == '42["message-back","while both are there"]'
        ws.send('42["message","up"]')
        assert ws.recv() == '42["message-back","up"]'
        assert code(polling.get()) == REQUEST
        assert code(polling.post("3")) == REQUEST
        with closing(probe(conformance, polling)) as second:
            assert close_code(second) == 1002
        ws.send('42["message","undisturbed"]')
        assert ws.recv() == '42["message-back","undisturbed"]'


def test_a_second_probe_is_closed_and_the_first_goes_on(conformance: Server) -> None:
    polling = RawPolling(conformance)
    with closing(probe(conformance, polling)) as first, closing(probe(conformance, polling)) as second:
        assert close_code(second) == 1002
        first.send("2probe")
        assert first.recv() == "3probe"


@pytest.mark.parametrize("text", ["2", "2prob", "4hi", "3probe", "1", "probe", ""])
def test_a_wrong_probe_is_closed_and_polling_goes_on(conformance: Server, text: str) -> None:
    polling = RawPolling(conformance)
    with closing(probe(conformance, polling)) as ws:
        ws.send(text)
        assert close_code(ws) == 1002
    polling.post("40")
    assert "40{" in wait_until(lambda: _nonempty(polling), "polling goes on")


def _nonempty(polling: RawPolling) -> str | None:
    text = polling.get().text
    return None if text == "6" else text


def test_half_an_upgrade_leaves_polling_as_it_was(conformance: Server) -> None:
    polling = RawPolling(conformance)
    with closing(probe(conformance, polling)) as ws:
        ws.send("2probe")
        ws.recv()
    polling.post("40")
    assert "40{" in wait_until(lambda: _nonempty(polling), "polling goes on")


def test_no_upgrade_of_what_is_closed(conformance: Server) -> None:
    polling = RawPolling(conformance)
    polling.post("1")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        probe(conformance, polling)
    assert refused.value.status_code == 400


def test_close_while_probing_ends_both(conformance: Server) -> None:
    polling = RawPolling(conformance)
    with closing(probe(conformance, polling)) as ws:
        ws.send("2probe")
        assert ws.recv() == "3probe"
        assert polling.post("1").text == "ok"
        ws.send("5")
        assert close_code(ws) == 1000
    gone(conformance, polling)
