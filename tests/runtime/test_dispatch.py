"""What a client says and what it is answered, over a whole server in this process."""

from __future__ import annotations

import json
from typing import Any

import gevent
import pytest
from flask_socketio import ConnectionRefusedError as Refused

from tests.blueprints.conftest import Place
from tests.polling import PollingClient
from tests.runtime.world import eventually
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.event_blueprint import Call, EventBlueprint


@pytest.fixture
def feature(place: Place) -> EventBlueprint:
    blueprint = EventBlueprint("feature", __name__)

    @blueprint.event("echo")
    def echo(_call: Call, payload: Any) -> dict[str, object]:
        return {"told": payload}

    @blueprint.event("nothing")
    def nothing(_call: Call, _payload: Any) -> None:
        return None

    @blueprint.event("fails")
    def fails(_call: Call, _payload: Any) -> None:
        raise RuntimeError("secret detail")

    @blueprint.event("unwritable")
    def unwritable(_call: Call, _payload: Any) -> dict[str, object]:
        return {"told": float("nan")}

    place.server.register_blueprint(blueprint)
    return blueprint


def test_connect_is_answered_before_anything_else(place: Place) -> None:
    """A connect handler emits: that goes out after CONNECT, in order."""
    @place.server.socketio.on("connect")
    def connected() -> None:
        place.server.socketio.emit("early", 1)
        place.server.socketio.emit("early", 2)

    client = PollingClient(place.app)
    client.send("40")
    packets = [client.next() for _ in range(4)]
    assert packets[0].startswith("40{")
    assert packets[1].startswith('42["session"')
    assert packets[2:] == ['42["early",1]', '42["early",2]']
    hello, told = json.loads(packets[0][2:]), json.loads(packets[1][2:])[1]
    assert hello["pid"] == told["sessionId"]
    assert hello["sid"] != client.sid


@pytest.mark.parametrize("where", ["handler", "hook", "identify"])
def test_a_refused_connect_is_told_with_44(place: Place, where: str) -> None:
    def refuse(*_: Any) -> None:
        raise Refused("not you")

    if where == "handler":
        place.server.socketio.on("connect")(refuse)
    elif where == "hook":
        place.server.on_connect(refuse)
    else:
        place.server.identify(refuse)
    client = PollingClient(place.app)
    client.send("40")
    packet = client.next()
    assert packet.startswith("44")
    assert json.loads(packet[2:])["message"] == "not you"
    assert place.server.connections.get_connection_count() == 0


def test_a_connect_handler_that_fails_tells_no_detail(place: Place) -> None:
    @place.server.on_connect
    def connected(*_: Any) -> None:
        raise RuntimeError("secret detail")

    client = PollingClient(place.app)
    client.send("40")
    packet = client.next()
    assert packet.startswith("44")
    assert "secret" not in packet


def test_a_client_that_goes_while_it_is_admitted_leaves_nothing(place: Place) -> None:
    waits = gevent.event.Event()
    place.server.identify(lambda _auth, _environ: waits.wait() and None)
    client = PollingClient(place.app)
    client.send("40")
    gevent.sleep(0)
    client.send("1")
    gevent.sleep(0.01)
    waits.set()
    gevent.sleep(0.01)
    assert place.server.connections.get_connection_count() == 0
    assert list(place.server.socketio.server.manager.get_participants("/", None)) == []


def test_a_client_that_goes_while_it_waits_for_redis_leaves_nothing(place: Place,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session could be taken, and its rooms not yet be joined."""
    first = place.client()
    assert first.ask("subscribe-agent", "a")["ok"]
    pid = first.hello["pid"]
    first.send("1")
    eventually(lambda: place.server.connections.get_connection_count() == 0)
    attempts = []

    def away(*_: Any) -> None:
        attempts.append(1)
        raise BrokerUnavailable("away")

    monkeypatch.setattr("wsapp.runtime.lifecycle.recover", away)
    client = PollingClient(place.app)
    client.send("40" + json.dumps({"pid": pid}))
    eventually(lambda: attempts)
    client.send("1")
    tried = len(attempts)
    eventually(lambda: len(attempts) > tried)
    eventually(lambda: place.server.connections.get_connection_count() == 0)
    gevent.sleep(0.3)
    assert len(attempts) == tried + 1, "nobody waits any more"
    assert list(place.server.socketio.server.manager.get_participants("/", None)) == []
    monkeypatch.undo()
    again = PollingClient(place.app)
    assert again.connect({"pid": pid})["recovered"] is True


def test_our_events_are_acknowledged(place: Place, feature: EventBlueprint) -> None:
    client = place.client()
    assert client.ask("echo", {"a": [1, None]}) == {"ok": True, "told": {"a": [1, None]}}
    assert client.ask("echo") == {"ok": True, "told": None}
    assert client.ask("nothing", 1) == {"ok": True}


def test_without_an_id_nothing_is_answered(place: Place, feature: EventBlueprint) -> None:
    client = place.client()
    client.send('42["echo",1]', '42["fails"]', '427["echo",2]')
    assert client.next() == '437[{"ok":true,"told":2}]'


def test_the_events_of_a_client_are_handled_in_order(place: Place, feature: EventBlueprint) -> None:
    handled: list[int] = []

    @feature.event("slow")
    def slow(_call: Call, payload: int) -> dict[str, object]:
        gevent.sleep(0.01 if payload % 2 == 0 else 0)
        handled.append(payload)
        return {"told": payload}

    place.server.register_blueprint(EventBlueprint("again", __name__))
    place.server.events["slow"] = feature.events["slow"]
    client, other = place.client(), place.client()
    client.send(*[f'42{number}["slow",{number}]' for number in range(40)])
    assert other.ask("echo", 1)["ok"] is True  # nobody else waits
    assert len(handled) < 40
    acks = [client.next() for _ in range(40)]
    assert acks == [f'43{number}[{{"ok":true,"told":{number}}}]' for number in range(40)]
    assert handled == list(range(40))


def test_a_handler_that_fails_tells_no_detail(place: Place, feature: EventBlueprint,
                                              caplog: pytest.LogCaptureFixture) -> None:
    answer = place.client().ask("fails")
    assert (answer["ok"], answer["error"]["code"], answer["error"]["retryable"]) == (False, "internal", True)
    assert "secret" not in json.dumps(answer)
    assert "secret detail" in caplog.text


def test_an_answer_that_is_not_json_is_an_error_of_the_server(place: Place,
                                                              feature: EventBlueprint) -> None:
    with gevent.Timeout(5):
        assert place.client().ask("unwritable")["error"]["code"] == "internal"


def test_two_arguments_are_refused(place: Place, feature: EventBlueprint) -> None:
    assert place.client().ask("echo", 1, 2)["error"]["code"] == "bad_request"


@pytest.mark.parametrize(("name", "code"), [
    ("nobody", "unknown_event"), ("session", "reserved_event"), ("batch", "reserved_event"),
    ("connect", "reserved_event"), ("disconnect", "reserved_event"), ("newListener", "reserved_event")])
def test_unknown_and_reserved_events_are_refused(place: Place, name: str, code: str) -> None:
    client = place.client()
    answer = client.ask(name, 1)
    assert (answer["ok"], answer["error"]["code"], answer["error"]["retryable"]) == (False, code, False)
    assert client.ask("nobody")["ok"] is False  # still connected


@pytest.mark.parametrize("packet", ['42["connect"]', "42{}", "42[1]", '42["x",NaN]', "4", "47", '451-["x"]',
                                    '40/other,[]', '42/nowhere,["x"]', "44{}"])
def test_what_no_client_may_send_ends_the_connection(place: Place, packet: str) -> None:
    client = place.client()
    client.send(packet, packet)
    eventually(lambda: place.server.connections.get_connection_count() == 0)


def test_a_second_connect_is_not_taken(place: Place) -> None:
    client = place.client()
    client.send("40")
    eventually(lambda: place.server.connections.get_connection_count() == 0)


def test_events_of_the_host_go_the_stock_way(place: Place) -> None:
    @place.server.socketio.on("host")
    def host(first: Any, second: Any) -> tuple[Any, Any]:
        return second, first

    client = place.client()
    client.send('423["host",1,"two"]')
    assert client.until("433") == '433["two",1]'


def test_disconnecting_runs_the_hook_once_and_allows_to_connect_again(place: Place) -> None:
    gone: list[str] = []
    place.server.on_disconnect(lambda session: gone.append(session.id))
    client = place.client()
    first = client.hello["pid"]
    client.send("41")
    eventually(lambda: gone == [first])
    client.connect()
    client.send("1")
    eventually(lambda: len(gone) == 2)
    gevent.sleep(0.01)
    assert len(gone) == 2


def test_a_pong_is_activity_and_so_is_a_message(place: Place) -> None:
    client = place.client()
    [session] = place.server.connections.sessions()
    session.last_seen = 0.0
    client.ask("nobody")
    assert session.last_seen > 0


# -- namespaces of the host application


def greeted(place: Place, refuse: bool = False) -> PollingClient:
    """A client of a place whose namespace /other greets, and may turn away."""
    @place.server.socketio.on("connect", namespace="/other")
    def connected(auth: Any = None) -> None:
        place.server.socketio.emit("greeting", auth, namespace="/other")
        if refuse:
            raise ConnectionRefusedError("not you")

    return PollingClient(place.app)


def test_another_namespace_is_answered_before_anything_else(place: Place) -> None:
    client = greeted(place)
    client.send('40/other,{"a":1}')
    assert client.next().startswith('40/other,{"sid":')
    assert client.next() == '42/other,["greeting",{"a":1}]'


def test_who_is_refused_gets_nothing_of_what_the_handler_emitted(place: Place) -> None:
    client = greeted(place, refuse=True)
    client.send("40/other,")
    assert client.next().startswith('44/other,{"message":')
    client.send("40")
    assert client.next().startswith("40{")


def test_an_unknown_namespace_is_told_as_the_reference_server_does(place: Place) -> None:
    client = PollingClient(place.app)
    client.send("40/nowhere,")
    assert client.next() == '44/nowhere,{"message":"Invalid namespace"}'


@pytest.mark.parametrize("packet", ['42["x"]', "41", "431[]", '42/other,["x"]', '421["connect"]'])
def test_connect_comes_first(place: Place, packet: str) -> None:
    client = greeted(place)
    assert client.send(packet) == 400
