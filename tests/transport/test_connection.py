"""One connection: order in both directions over polling, WebSocket and the upgrade between them."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from tests.transport.test_frames import sent
from wsapp.transport.connection import Connection, let_in
from wsapp.transport.engine import Engine, EngineOptions, Hooks
from wsapp.transport.frames import BINARY, CLOSE, TEXT, Frame, encode, encode_close
from wsapp.transport.inbox import INBOX_LIMIT
from wsapp.transport.origins import Origins
from wsapp.transport.polling import SEPARATOR, PacketError

HELLO = Frame(b"0{}")


def until(met: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not met():
            gevent.sleep(0.001)


class Watcher:
    """The inside's view of a connection."""

    def __init__(self) -> None:
        self.proof = False
        self.heard: list[str] = []

    def rerouted(self, box: object) -> None:
        self.box = box

    def wants_proof(self) -> bool:
        return self.proof

    def pinging(self) -> None:
        self.heard.append("ping")

    def ponged(self, now: float) -> None:
        self.heard.append("pong")


class Inside:
    """An engine whose inside notes what comes; `handle` may be replaced."""

    def __init__(self, **options: Any) -> None:
        self.handled: list[Any] = []
        self.ended: list[str] = []
        self.engine = Engine(EngineOptions(**options), Origins(), Hooks(
            opened=lambda connection, environ: None, read=self.read, handle=lambda *args: self.handle(*args),
            closed=lambda connection, reason: self.ended.append(reason)))
        self.clients: list[socket.socket] = []

    def read(self, connection: Connection, payload: str | bytes) -> Any:
        if payload == "wrong":
            raise PacketError("wrong")
        return payload or None

    def handle(self, connection: Connection, item: Any) -> None:
        self.handled.append(item)

    def connection(self) -> Connection:
        made = Connection(self.engine, self.engine.generate_id())
        self.engine.sockets[made.sid] = made
        return made

    def pair(self) -> tuple[socket.socket, socket.socket]:
        ours, client = socket.socketpair()
        ours.setblocking(False)
        client.setblocking(False)
        self.clients.append(client)
        return ours, client

    def websocket(self) -> tuple[Connection, socket.socket]:
        connection = self.connection()
        ours, client = self.pair()
        connection.open_websocket(ours, b"")
        return connection, client

    def polling(self) -> Connection:
        connection = self.connection()
        assert connection.open_polling(HELLO) == [b"0{}"]
        return connection


def got(client: socket.socket, wanted: bytes) -> bool:
    """Whether exactly these bytes come next."""
    raw = b""
    with gevent.Timeout(5):
        while len(raw) < len(wanted):
            try:
                data = client.recv(len(wanted) - len(raw))
            except BlockingIOError:
                gevent.sleep(0.001)
                continue
            if not data:
                break
            raw += data
    assert raw == wanted
    return True


def is_quiet(client: socket.socket) -> bool:
    gevent.sleep(0.005)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    return False


@pytest.fixture
def inside() -> Iterator[Inside]:
    made = Inside()
    yield made
    for connection in list(made.engine.sockets.values()):
        if connection.ws is not None:
            connection.ws.outbox.abort("the test is over")
    for client in made.clients:
        client.close()


# -- WebSocket


def test_until_it_has_joined_a_client_may_send_little() -> None:
    inside = Inside(first_message=1000, max_message=5000)
    connection, client = inside.websocket()
    let_in(connection)
    client.send(sent(TEXT, b"4" + b"x" * 4000))
    until(lambda: inside.handled)
    _, early = inside.websocket()
    early.send(sent(TEXT, b"4" + b"x" * 1000))
    got(early, encode_close(1009, "a message may have 1000 bytes"))


@pytest.mark.parametrize("packet", ["3x", "3" * 1000, "1x"])
def test_what_carries_nothing_may_carry_nothing(inside: Inside, packet: str) -> None:
    _, client = inside.websocket()
    client.send(sent(TEXT, packet.encode()))
    until(lambda: inside.ended)
    assert client.recv(4)[2:4] == (1002).to_bytes(2, "big")


def test_messages_are_handled_in_order_and_a_slow_one_keeps_only_its_own_client_waiting(inside: Inside) -> None:
    def handle(connection: Connection, item: Any) -> None:
        if item == "slow":
            gevent.sleep(0.02)
        inside.handled.append(item)

    inside.handle = handle  # type: ignore[method-assign]
    (_, one), (_, two) = inside.websocket(), inside.websocket()
    one.send(sent(TEXT, b"4slow") + sent(TEXT, b"4after") + sent(BINARY, b"\x00"))
    gevent.sleep(0.005)
    two.send(sent(TEXT, b"4other"))
    until(lambda: len(inside.handled) == 4)
    assert inside.handled == ["other", "slow", "after", b"\x00"]


def test_a_handler_that_fails_ends_only_its_message(inside: Inside, caplog: pytest.LogCaptureFixture) -> None:
    def handle(connection: Connection, item: Any) -> None:
        if item == "bad":
            raise RuntimeError("a bug of the application")
        inside.handled.append(item)

    inside.handle = handle  # type: ignore[method-assign]
    connection, client = inside.websocket()
    client.send(sent(TEXT, b"4bad") + sent(TEXT, b"4good"))
    until(lambda: inside.handled)
    assert inside.handled == ["good"]
    assert "could not be handled" in caplog.text
    assert not connection.closed


@pytest.mark.parametrize("payload", [b"", b"x", b"0", b"2", b"5", b"6", b"7", b"4wrong"])
def test_what_is_no_packet_of_a_client_closes_with_1002(inside: Inside, payload: bytes) -> None:
    connection, client = inside.websocket()
    client.send(sent(TEXT, payload) + sent(TEXT, b"4after"))
    got(client, b"\x88")
    length = client.recv(1)[0]
    assert client.recv(length)[:2] == (1002).to_bytes(2, "big")
    assert (connection.closed, len(inside.ended), inside.handled) == (True, 1, [])
    assert connection.sid not in inside.engine.sockets


def test_too_many_messages_pause_the_reading_until_they_are_handled(inside: Inside) -> None:
    gate = gevent.event.Event()

    def handle(connection: Connection, item: Any) -> None:
        gate.wait()
        inside.handled.append(item)

    inside.handle = handle  # type: ignore[method-assign]
    connection, client = inside.websocket()
    for number in range(INBOX_LIMIT + 1):
        client.send(sent(TEXT, b"4%d" % number))
    until(lambda: connection._inbox is not None and connection._inbox.paused)
    client.send(sent(TEXT, b"4last"))
    gevent.sleep(0.005)
    assert connection._inbox is not None
    assert "last" not in connection._inbox
    gate.set()
    until(lambda: len(inside.handled) == INBOX_LIMIT + 2)
    assert inside.handled == [*map(str, range(INBOX_LIMIT + 1)), "last"]


@pytest.mark.parametrize("goodbye", [sent(TEXT, b"1"), sent(CLOSE, (1001).to_bytes(2, "big")), b""])
def test_the_client_leaves(inside: Inside, goodbye: bytes) -> None:
    connection, client = inside.websocket()
    if goodbye:
        client.send(goodbye)
    else:
        client.shutdown(socket.SHUT_WR)
    until(lambda: connection.closed)
    assert len(inside.ended) == 1
    assert connection.sid not in inside.engine.sockets


def test_close_is_told_once_and_the_books_are_closed_first(inside: Inside) -> None:
    connection, client = inside.websocket()
    connection.close(1012, "restart")
    assert (connection.closed, inside.ended) == (True, ["server disconnect"])
    connection.close(1000, "again")
    connection.timed_out()
    connection.push(Frame(b"4late"))
    got(client, encode_close(1012, "restart"))
    client.send(sent(CLOSE))
    until(lambda: connection.ws is not None and connection.ws.outbox.closed)
    assert inside.ended == ["server disconnect"]
    assert client.recv(10) == b""


def test_nothing_goes_out_before_the_answer_to_connect(inside: Inside) -> None:
    connection, client = inside.websocket()
    connection.hold()
    connection.push(Frame(b"42[1]"))
    connection.push(Frame(b"\x00", binary=True))
    assert is_quiet(client)
    connection.release(Frame(b"40{}"))
    got(client, encode(b"40{}") + encode(b"42[1]") + encode(b"\x00", BINARY))


def test_packets_of_engineio_are_sent(inside: Inside) -> None:
    connection, client = inside.websocket()

    class Packet:
        def __init__(self, encoded: str | bytes) -> None:
            self._encoded = encoded

        def encode(self) -> str | bytes:
            return self._encoded

    connection.send(Packet("4é"))
    connection.send(Packet(b"\x01"))
    got(client, encode("4é".encode()) + encode(b"\x01", BINARY))
    connection.session["a"] = 1
    assert connection.session == {"a": 1}
    assert connection.upgraded


# -- heartbeat


def test_a_pong_is_proof_only_when_it_was_asked_for(inside: Inside) -> None:
    connection, client = inside.websocket()
    watcher = connection.viewer = Watcher()
    client.send(sent(TEXT, b"3"))
    gevent.sleep(0.005)
    assert watcher.heard == []
    connection.awaiting_pong = True
    connection.ping()
    got(client, encode(b"2"))
    client.send(sent(TEXT, b"3"))
    until(lambda: not connection.awaiting_pong)
    assert watcher.heard == ["ping", "pong"]


def test_a_ping_is_wanted_when_its_viewer_wants_proof() -> None:
    connection = Inside().polling()
    assert not connection.wants_ping()
    watcher = connection.viewer = Watcher()
    assert not connection.wants_ping()
    watcher.proof = True
    assert connection.wants_ping()


def test_a_silent_client_is_told_and_forgotten(inside: Inside) -> None:
    connection, client = inside.websocket()
    connection.timed_out()
    got(client, encode_close(4001, "ping timeout"))
    polling = inside.polling()
    polling.timed_out()
    assert inside.ended == ["ping timeout", "ping timeout"]
    assert inside.engine.sockets == {}


def test_one_who_does_not_read_is_closed_by_age(inside: Inside) -> None:
    connection, _ = inside.websocket()
    while not connection.backlog():
        connection.push(Frame(b"4" + b"x" * 10_000))
    assert connection.ws is not None
    now = connection.ws.outbox._written_at
    connection.check(now + inside.engine.options.outbox_age)
    assert not connection.closed
    connection.check(now + inside.engine.options.outbox_age + 1)
    assert connection.closed


# -- polling


def test_a_poll_takes_all_that_waits_in_order(inside: Inside) -> None:
    connection = inside.polling()
    connection.push(Frame(b"4a"))
    connection.push(Frame(b"\x00\xff", binary=True))
    assert connection.backlog() == len(b"4a" + b"bAP8=")
    assert connection.poll(1.0) == [b"4a", b"b" + base64.b64encode(b"\x00\xff")]
    assert connection.backlog() == 0
    assert not connection.upgraded


def test_a_poll_waits_for_the_first(inside: Inside) -> None:
    connection = inside.polling()
    polling = gevent.spawn(connection.poll, 5.0)
    gevent.sleep(0)
    connection.push(Frame(b"4a"))
    assert polling.get(timeout=5) == [b"4a"]
    assert connection.poll(0.001) == [b"6"]


def test_two_polls_at_once_end_the_session(inside: Inside) -> None:
    connection = inside.polling()
    first = gevent.spawn(connection.poll, 5.0)
    gevent.sleep(0)
    with pytest.raises(PacketError):
        connection.poll(5.0)
    assert first.get(timeout=5) == [b"1"]
    assert connection.closed
    assert connection.sid not in inside.engine.sockets


def test_posts(inside: Inside) -> None:
    connection = inside.polling()
    connection.post(SEPARATOR.join([b"4one", "4zwö".encode(), b"b" + base64.b64encode(b"\x00")]))
    until(lambda: len(inside.handled) == 3)
    assert inside.handled == ["one", "zwö", b"\x00"]


def test_a_post_waits_while_too_many_messages_wait(inside: Inside) -> None:
    gate = gevent.event.Event()

    def handle(connection: Connection, item: Any) -> None:
        gate.wait()
        inside.handled.append(item)

    inside.handle = handle  # type: ignore[method-assign]
    connection = inside.polling()
    connection.post(SEPARATOR.join([b"4x"] * (INBOX_LIMIT + 1)))
    gevent.sleep(0)
    waiting = gevent.spawn(connection.post, b"4last")
    gevent.sleep(0.03)
    assert not waiting.ready()
    gate.set()
    waiting.get(timeout=5)
    until(lambda: inside.handled[-1:] == ["last"])


@pytest.mark.parametrize("body", [b"", b"9", b"4a\x1e", b"4a\x1e\xff", b"b!!", b"bAP", b"4\xff", b"2", b"4wrong",
                                  SEPARATOR.join([b"3"] * 5001)])
def test_a_post_that_is_wrong_is_refused_and_ends_the_session(inside: Inside, body: bytes) -> None:
    connection = inside.polling()
    with pytest.raises(PacketError):
        connection.post(body)
    assert connection.closed
    assert connection.poll(1.0) == []
    assert len(inside.ended) == 1


def test_an_answer_larger_than_the_send_buffer_reaches_who_asked() -> None:
    inside = Inside(outbox_bytes=1000)
    connection = inside.polling()
    connection.push(Frame(b"4" + b"x" * 5000))
    gevent.sleep(0.01)
    assert not connection.closed
    assert len(connection.poll(1.0)[0]) == 5001


def test_a_client_that_does_not_poll_is_closed_past_its_bytes() -> None:
    inside = Inside(outbox_bytes=1000)
    connection = inside.polling()
    for _ in range(12):
        connection.push(Frame(b"4" + b"x" * 99))
    assert not connection.closed  # in the middle of a fan-out
    until(lambda: connection.closed)
    connection.push(Frame(b"4late"))
    assert len(connection.poll(1.0)) == 12
    assert connection.poll(1.0) == [], "the session has ended"


def test_a_polling_client_says_goodbye(inside: Inside) -> None:
    connection = inside.polling()
    waiting = gevent.spawn(connection.poll, 5.0)
    gevent.sleep(0)
    connection.post(b"1")
    assert waiting.get(timeout=5) == [b"6"]
    assert (connection.closed, len(inside.ended)) == (True, 1)
    assert connection.sid not in inside.engine.sockets


# -- upgrade


def test_an_upgrade_loses_and_reorders_nothing(inside: Inside) -> None:
    connection = inside.polling()
    ours, client = inside.pair()
    connection.open_probe(ours, b"")
    polling = gevent.spawn(connection.poll, 5.0)
    gevent.sleep(0)
    client.send(sent(TEXT, b"2probe"))
    got(client, encode(b"3probe"))
    assert polling.get(timeout=5) == [b"6"]
    connection.push(Frame(b"4one"))
    connection.push(Frame(b"\x02", binary=True))
    assert is_quiet(client)
    client.send(sent(TEXT, b"5") + sent(TEXT, b"4first"))
    got(client, encode(b"4one") + encode(b"\x02", BINARY))
    connection.push(Frame(b"4three"))
    got(client, encode(b"4three"))
    until(lambda: inside.handled)
    assert (inside.handled, connection.upgraded) == (["first"], True)
    assert connection.poll(1.0) == [b"6"]
    client.close()
    until(lambda: connection.closed)
    assert len(inside.ended) == 1


@pytest.mark.parametrize("payload", [b"5probe", b"4hello", b"2", b"3probe", b""])
def test_a_probe_that_is_none_is_closed_and_polling_goes_on(inside: Inside, payload: bytes) -> None:
    connection = inside.polling()
    ours, client = inside.pair()
    connection.open_probe(ours, sent(TEXT, payload))
    got(client, b"\x88")
    client.recv(200)
    client.send(sent(CLOSE))
    until(lambda: connection.probe is None)
    assert not connection.closed
    connection.push(Frame(b"4still here"))
    assert connection.poll(1.0) == [b"4still here"]


def test_an_upgrade_that_is_not_finished_in_time(inside: Inside) -> None:
    patient = Inside(upgrade_timeout=0.5)
    connection = patient.polling()
    ours, client = patient.pair()
    connection.open_probe(ours, b"")
    client.send(sent(TEXT, b"2probe"))
    got(client, encode(b"3probe"))
    got(client, encode_close(1008, "the upgrade was not finished in time"))
    client.close()
    until(lambda: connection.probe is None)
    connection.push(Frame(b"4a"))
    assert connection.poll(1.0) == [b"4a"]


def test_the_time_limit_of_an_upgrade_does_not_touch_a_finished_one() -> None:
    inside = Inside(upgrade_timeout=0.01)
    connection = inside.polling()
    ours, client = inside.pair()
    connection.open_probe(ours, sent(TEXT, b"2probe") + sent(TEXT, b"5"))
    gevent.sleep(0.03)
    assert connection.upgraded
    assert not connection.closed
    got(client, encode(b"3probe"))
    client.close()
    until(lambda: connection.closed)


def test_closing_in_the_middle_of_an_upgrade_ends_both(inside: Inside) -> None:
    connection = inside.polling()
    ours, client = inside.pair()
    connection.open_probe(ours, b"")
    connection.close(1012, "restart")
    got(client, encode_close(1012, "restart"))
    assert connection.poll(1.0) == []
    client.send(sent(TEXT, b"2probe") + sent(TEXT, b"5") + sent(CLOSE))
    until(lambda: connection.probe is None)
    assert not connection.upgraded
    assert inside.ended == ["server disconnect"]


# -- what a polling client may not do, or may do in any order


def test_a_get_that_is_hung_up_ends_the_session_and_its_probe(inside: Inside) -> None:
    connection = inside.polling()
    ours, client = inside.pair()
    assert connection.open_probe(ours, b"")
    connection.poll_cancelled()
    assert (connection.closed, inside.ended) == (True, ["transport close"])
    assert connection.sid not in inside.engine.sockets
    assert got(client, encode_close(1002, "the poll was cancelled"))
    connection.poll_cancelled()
    assert len(inside.ended) == 1


def test_a_get_that_waits_beside_one_that_was_hung_up_is_refused(inside: Inside) -> None:
    connection = inside.polling()
    waits = gevent.spawn(connection.poll, 5.0)
    gevent.sleep(0)
    connection.poll_cancelled()
    for poll in (waits.get, lambda timeout: connection.poll(timeout)):
        with pytest.raises(PacketError, match="cancelled"):
            poll(timeout=5)


def test_only_one_probe_at_a_time(inside: Inside) -> None:
    connection = inside.polling()
    assert connection.open_probe(inside.pair()[0], b"")
    assert not connection.open_probe(inside.pair()[0], b"")


def test_leaving_ends_the_probe_too(inside: Inside) -> None:
    connection = inside.polling()
    ours, client = inside.pair()
    connection.open_probe(ours, b"")
    connection.post(b"1")
    assert got(client, encode_close(1000))


def test_a_pong_that_is_overdue_is_noticed_by_the_next_get(inside: Inside) -> None:
    connection = inside.polling()
    connection.awaiting_pong, connection.pinged_at = True, time.monotonic() - inside.engine.options.ping_timeout
    with pytest.raises(PacketError, match="PONG"):
        connection.poll(1.0)
    assert inside.ended == ["ping timeout"]


def test_a_get_behind_the_post_that_closes_is_still_answered(inside: Inside) -> None:
    connection = inside.polling()
    posted = gevent.spawn(connection.post, b"1")
    gevent.sleep(0)
    assert connection.poll(5.0) == [b"6"]
    posted.get(timeout=5)
    assert connection.closed


def test_one_who_broke_the_protocol_is_forgotten_at_once(inside: Inside) -> None:
    connection = inside.polling()
    connection.broke(1002, "why")
    assert connection.sid not in inside.engine.sockets
