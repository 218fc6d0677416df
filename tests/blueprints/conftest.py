"""A whole server on the memory backend in this process, started and ended."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from flask import Flask

from tests.polling import PollingClient
from wsapp.server import SocketServer

OURS = ("WSAPP_", "REDIS_URL", "WEBSOCKET_", "MAX_", "PING_", "SERVER_SOFTWARE")


class Place:
    """An app with a running server, and its clients."""

    def __init__(self) -> None:
        self.app = Flask("host")
        self.server = SocketServer(self.app, max_rooms=3, max_events_per_sec=1000.0)

    def client(self) -> PollingClient:
        client = PollingClient(self.app)
        client.connect()
        return client


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    place = Place()
    place.server.start()
    yield place
    place.server.shutdown()
