"""`socketio.emit` of the host and of other processes: encoded once, strict, for every transport."""

from __future__ import annotations

import base64
import json
from typing import Any

import gevent
import pytest
from flask_socketio import SocketIO

from tests.blueprints.conftest import Place
from tests.polling import PollingClient
from tests.runtime.world import RecordingPeer, eventually
from tests.valkey import Valkey
from wsapp.backends.redis_broker import RedisBackend
from wsapp.core.ports import Limits
from wsapp.errors import BrokerUnavailable, PayloadError
from wsapp.metrics import Metrics
from wsapp.runtime import manager as module
from wsapp.runtime.link import Links
from wsapp.runtime.manager import ClusterManager, StrictJson
from wsapp.runtime.outlet import Outlet


def recorded(place: Place, client: PollingClient) -> RecordingPeer:
    """Put a recording end in the place of a connection."""
    peer = RecordingPeer(client.sid)
    place.server.engine.sockets[client.sid] = peer
    return peer


def test_an_emit_is_one_frame_for_all(place: Place) -> None:
    peers = [recorded(place, place.client()) for _ in range(3)]
    place.server.socketio.emit("news", {"a": 1})
    assert {len(peer.frames) for peer in peers} == {1}
    assert len({id(peer.frames[0]) for peer in peers}) == 1
    assert peers[0].frames[0].payload == b'42["news",{"a":1}]'


def test_binary_is_bytes_on_websockets_and_base64_on_polling(place: Place) -> None:
    client = place.client()
    peer = recorded(place, place.client())
    place.server.socketio.emit("blob", {"data": b"\x00\xff"})
    header, attachment = peer.frames
    assert header.payload == b'451-["blob",{"data":{"_placeholder":true,"num":0}}]'
    assert (attachment.binary, attachment.payload, attachment.ws) == (True, b"\x00\xff", b"\x82\x02\x00\xff")
    assert client.until("451-") == header.payload.decode()
    assert client.next() == "b" + base64.b64encode(b"\x00\xff").decode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [float("-inf")]}, object()])
def test_what_browsers_cannot_parse_is_refused_where_it_is_emitted(place: Place, value: Any) -> None:
    peer = recorded(place, place.client())
    with pytest.raises(PayloadError):
        place.server.socketio.emit("news", value)
    assert peer.frames == []


def test_rooms_and_skipped_clients(place: Place) -> None:
    clients = [place.client() for _ in range(3)]
    sids = [client.hello["sid"] for client in clients]
    for sid in sids[:2]:
        place.server.socketio.server.enter_room(sid, "red")
    place.server.socketio.emit("red", 1, to="red", skip_sid=sids[0])
    place.server.socketio.emit("one", 1, to=sids[2])
    place.server.socketio.emit("none", 1, to="nowhere")
    assert [[event[0] for event in client.events if event[0] != "session"]
            for client in clients if client.of("x") == []] == [[], ["red"], ["one"]]


def test_arguments_as_the_stock_server_has_them(place: Place) -> None:
    client = place.client()
    emit = place.server.socketio.server.emit
    emit("none")
    emit("two", (1, [2]))
    emit("list", [1, 2])
    client.ask("x")
    assert [event for event in client.events if event[0] != "session"] == [["none"], ["two", 1, [2]],
                                                                           ["list", [1, 2]]]


def test_a_callback_gets_the_acknowledgement(place: Place) -> None:
    client = place.client()
    answers: list[Any] = []
    place.server.socketio.server.emit("ask", 1, to=client.hello["sid"], callback=lambda *told: answers.append(told))
    packet = client.until("42")
    number = packet[2:packet.index("[")]
    client.send(f'43{number}["yes",2]')
    eventually(lambda: answers)
    assert answers == [("yes", 2)]


def test_strict_json() -> None:
    assert StrictJson.dumps({"ä": 1}, separators=(",", ":")) == '{"ä":1}'
    assert StrictJson.loads('{"a":1}') == {"a": 1}
    with pytest.raises(PayloadError):
        StrictJson.dumps(float("nan"))
    with pytest.raises(ValueError):
        StrictJson.loads("NaN")


class CutBus:
    """A bus that takes what comes once it is there."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.taken: list[bytes] = []

    def ping(self) -> float:
        return 0.0

    def publish(self, message: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("away")
        self.taken.append(message)


def test_messages_to_the_others_wait_for_the_broker_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.001)
    monkeypatch.setattr("wsapp.runtime.outlet.FIRST_PAUSE", 0.001)
    manager, bus = ClusterManager("channel"), CutBus(5)
    links = Links(lambda _state: None)
    greenlets = manager.start(bus, links)
    greenlets.append(gevent.spawn(Outlet(lambda _drafts: [], bus, links.parts[0], Metrics(),  # type: ignore[arg-type]
                                         lambda _publication: None).run))
    for number in range(10):
        manager._publish({"number": number})
    assert manager.waiting() == 10
    eventually(lambda: len(bus.taken) == 10)
    assert [json.loads(message)["number"] for message in bus.taken] == list(range(10))
    assert manager.waiting() == 0
    for greenlet in greenlets:
        greenlet.kill()


def test_the_queue_to_the_others_is_bounded_and_says_so(caplog: pytest.LogCaptureFixture,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 2)
    manager = ClusterManager("channel")
    for number in range(3):
        manager._publish({"number": number})
    assert manager.waiting() == 2
    assert "did not reach the other workers" in caplog.text


def test_each_start_makes_a_new_host_id() -> None:
    manager = ClusterManager("channel")
    ids = set()
    for _ in range(2):
        for greenlet in manager.start(CutBus(0), Links(lambda _state: None)):
            greenlet.kill()
        ids.add(manager.host_id)
    assert len(ids) == 2


def test_a_message_of_another_process_reaches_our_clients_and_our_own_does_not_come_twice(
        place: Place) -> None:
    client = place.client()
    place.server.socketio.emit("own", 1)
    message = {"method": "emit", "event": "foreign", "data": [{"a": 1}], "namespace": "/", "room": None,
               "skip_sid": None, "callback": None, "host_id": "another"}
    place.server.hub.backend.bus.publish(json.dumps(message).encode())
    client.until('42["foreign"')
    assert client.of("own") == [1]
    assert client.of("foreign") == [{"a": 1}]


@pytest.mark.parametrize("message", [b"", b"not json", b"[]", b"{}", b'{"method": "emit"}', b'{"method": "what"}'])
def test_rubbish_on_the_channel_hurts_nobody(place: Place, message: bytes) -> None:
    client = place.client()
    place.server.hub.backend.bus.publish(message)
    place.server.socketio.emit("news", 1)
    assert client.of("news") == [1]


def test_the_stock_emitter_is_understood_on_a_real_channel() -> None:
    """`SocketIO(message_queue=url).emit(...)` of another process, byte for byte."""
    heard: list[bytes] = []
    with Valkey() as valkey:
        backend = RedisBackend(valkey.url, Limits(), channel="stock", prefix="t:", timeout=1.0)
        backend.start("w", lambda _room, _record: None, lambda: None, heard.append, lambda _message: None)
        outside = SocketIO(message_queue=valkey.url, channel="stock")

        def reached() -> bool:
            outside.emit("news", {"a": b"\x01"})
            return bool(heard)

        eventually(reached)
        backend.close()
    said = json.loads(heard[0])
    assert (said["method"], said["event"], said["binary"]) == ("emit", "news", True)
