"""A server that is far away, and much work at once: deadlines grow with both."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.backends.conftest import draft, eventually
from tests.valkey import Valkey
from wsapp.backends import open_backend
from wsapp.core.link import LinkState
from wsapp.core.ports import Limits
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime.link import Link
from wsapp.runtime.outlet import Outlet

PATIENCE = 0.03  # seconds, as the server's publishes


@contextmanager
def far(port: int, round_trip: float) -> Iterator[str]:
    """The URL of a server that is so many seconds away: what is sent either way arrives half of that later."""
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, target: socket.socket) -> None:
        under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        threading.Thread(target=_arrive, args=(under_way, target), daemon=True).start()
        data = b"."
        while data:
            try:
                data = source.recv(65_536)
            except OSError:  # it has gone
                data = b""
            under_way.put((time.monotonic() + round_trip / 2, data))

    def accept() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                near, _ = listener.accept()
                there = socket.create_connection(("127.0.0.1", port))
                for pair in ((near, there), (there, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.close()


def _arrive(under_way: queue.SimpleQueue[tuple[float, bytes]], target: socket.socket) -> None:
    with suppress(OSError):  # it has gone
        while True:
            due, data = under_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                target.shutdown(socket.SHUT_RDWR)
                return
            target.sendall(data)


@pytest.mark.parametrize("milliseconds", [5, 35, 100])
def test_the_supported_distance(own_valkey: Valkey, milliseconds: int) -> None:
    """Publishes are answered, and after a failure the worker is back to normal."""
    with far(own_valkey.port, milliseconds / 1000) as url:
        backend = open_backend(url, Limits(), channel="flask-socketio")
        link = Link(lambda *_: None)
        outlet = Outlet(backend.hasty(PATIENCE).publish, backend, link, Metrics(), lambda _publication: None,
                        recover=backend.broker.publish)
        try:
            def accepted() -> bool:
                while link.state is not LinkState.UP:
                    outlet._step()
                return outlet.publish([draft()])[0].status == "accepted"

            eventually(accepted)  # makes the connections, which takes several round trips
            statuses = [outlet.publish([draft()])[0].status for _ in range(20)]
            assert statuses.count("accepted") >= 18, "a busy machine may lose one"
            link.lost(BrokerUnavailable("for a moment"))
            assert outlet.publish([draft()])[0].status == "queued"
            eventually(lambda: link.state is LinkState.UP or outlet._step())
        finally:
            backend.close()


def test_a_full_batch_has_more_time_than_one_event(own_valkey: Valkey) -> None:
    backend = open_backend(own_valkey.url, Limits(), channel="flask-socketio")
    try:
        broker = backend.hasty(PATIENCE)
        broker.publish([draft()])
        own_valkey.stop_process()
        threading.Timer(0.15, own_valkey.cont).start()
        begun = time.monotonic()
        assert len(broker.publish([draft() for _ in range(500)])) == 500
        assert time.monotonic() - begun > 0.1
    finally:
        backend.close()
