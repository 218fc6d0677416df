"""Out of service and back: one worker on the memory backend."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from tests.blueprints.conftest import Place
from tests.runtime.world import eventually
from wsapp.runtime.drain import VERB

HANDSHAKE = "/socket.io/?EIO=4&transport=polling"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.delenv("WSAPP_DRAIN_TIMEOUT", raising=False)
    place = Place()
    place.server.start()
    yield place
    place.server.shutdown()


def ask(place: Place, do: str, over: float | None = None) -> dict[str, object]:
    [told] = place.server.api.calls.ask(VERB, {"do": do, "over": over}).values
    assert isinstance(told, dict)
    return told


def statuses(place: Place) -> tuple[int, int]:
    """Of readiness and of a handshake."""
    http = place.app.test_client()
    return http.get("/readyz").status_code, http.get(HANDSHAKE).status_code


def test_a_worker_is_drained_and_taken_back(place: Place) -> None:
    clients = [place.client() for _ in range(4)]
    before = ask(place, "tell")
    assert (before["state"], before["clients"], before["told"]) == ("serving", 4, 0)
    assert str(before["server"]).endswith(f":{place.server.settings.websocket_port}")
    begun = ask(place, "begin", 0.2)
    assert (begun["state"], begun["told"]) == ("draining", 4)
    assert statuses(place) == (503, 503)
    waits = sorted(client.until('42["server-shutdown"') for client in clients)
    assert len(set(waits)) == 4, "each has a slot of its own"
    eventually(lambda: ask(place, "tell")["state"] == "drained")
    done = ask(place, "begin")
    assert (done["state"], done["clients"], done["told"]) == ("drained", 0, 4), "to begin again changes nothing"
    assert statuses(place) == (503, 503)
    assert ask(place, "undo")["state"] == "serving"
    assert statuses(place) == (200, 200)


def test_undone_half_way_the_rest_stays(place: Place) -> None:
    clients = [place.client() for _ in range(3)]
    ask(place, "begin", 60)
    eventually(lambda: place.server.connections.get_connection_count() == 2)  # the first slot is now
    assert ask(place, "undo")["state"] == "serving"
    assert place.server.connections.get_connection_count() == 2
    there = {session.peer.sid for session in place.server.connections.sessions()}
    stayed = [client for client in clients if client.sid in there]
    assert len(stayed) == 2
    assert all(client.ask("subscribe-agent", "a")["ok"] for client in stayed)


def test_sigterm_takes_a_slow_drain_over_and_is_final(place: Place) -> None:
    client = place.client()
    place.client()
    ask(place, "begin", 600)
    assert client.until('42["server-shutdown"')
    with gevent.Timeout(20):
        place.server.drain(1.0)
    assert place.server.connections.get_connection_count() == 0
    assert ask(place, "undo")["state"] == "drained", "the process ends: nobody is taken any more"
    assert statuses(place) == (503, 503)


def test_a_long_drain_ends_with_the_last_client(place: Place) -> None:
    for _ in range(3):
        place.client()
    ask(place, "begin", 600)
    for session in place.server.connections.sessions():
        session.peer.close(1000, "leaves by itself")
    eventually(lambda: ask(place, "tell")["state"] == "drained", within=20)


def test_sigterm_after_a_drain_has_nothing_left_to_do(place: Place) -> None:
    ask(place, "begin")
    eventually(lambda: ask(place, "tell")["state"] == "drained")
    place.server.drain()
    assert not place.server.connections.sessions()


def test_who_is_left_in_the_end_is_cut_off(place: Place, caplog: pytest.LogCaptureFixture,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    place.client()
    monkeypatch.setattr(place.server._lifecycle, "drain", lambda timeout, over: None)  # a client that stays
    ask(place, "begin")
    eventually(lambda: ask(place, "tell")["state"] == "drained")
    assert "1 clients did not leave in time" in caplog.text
    eventually(lambda: not place.server.connections.sessions())
