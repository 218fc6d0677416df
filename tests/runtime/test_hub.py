"""What handlers are given."""

from __future__ import annotations

from tests.blueprints.conftest import Place
from wsapp.backends.memory import MemoryBackend


def test_it_holds_the_parts_of_one_worker(place: Place) -> None:
    hub = place.server.hub
    assert isinstance(hub.backend, MemoryBackend)
    assert hub.connections is place.server.connections
    assert hub.throttler is hub.connections.throttler is hub.delivery.fanout.throttler
    assert hub.delivery.registry is hub.connections.registry
    assert hub.lifecycle.delivery is hub.delivery
    assert hub.metrics is place.server.metrics is hub.delivery.metrics
    assert set(hub.hooks) == {"connect", "subscribe", "disconnect"}


def test_identify_is_looked_up_when_it_is_asked(place: Place) -> None:
    assert place.server.hub.identify({}, {}) is None
    place.server.identify(lambda auth, environ: f"{auth['name']}@{environ['host']}")
    assert place.server.hub.identify({"name": "ann"}, {"host": "h"}) == "ann@h"
