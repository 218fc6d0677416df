"""Fixtures of the cluster tests: two shared clusters for the tests that break nothing, and clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.fleet import Fleet
from tests.clients.node_client import Node
from tests.clients.python_client import PythonClient
from tests.cluster.bystander import memory
from tests.harness import Server, show_server_logs

pytest_runtest_makereport = show_server_logs


GROWS = 60e6  # bytes: for everything that is done to the conformance server


class Witness:
    """Bystanders of the conformance server."""

    def __init__(self, server: Server, clients: list[PythonClient]) -> None:
        self._server, self._clients, self._before = server, clients, memory(server)

    def undisturbed(self) -> None:
        """They are answered, were never disconnected, and no worker has grown much since they came."""
        assert memory(self._server) - self._before < GROWS
        for client in self._clients:
            assert client.request("message-with-ack", {"n": 1}) == {"n": 1}
            assert not client.all("disconnect")


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """The node process that drives npm clients."""
    with Node() as process:
        yield process


@pytest.fixture
def fleet(node: Node) -> Iterator[Fleet]:
    """Opens clients, closes them after the test."""
    with Fleet(node) as clients:
        yield clients


@pytest.fixture(scope="session")
def cluster() -> Iterator[Server]:
    """The project's own app on two workers, shared."""
    with Server(workers=2) as server:
        yield server


@pytest.fixture(scope="session")
def host() -> Iterator[Server]:
    """A host app with events, hooks and routes of its own on one worker, shared."""
    with Server(workers=1, app="tests.apps.host:app") as server:
        yield server


@pytest.fixture(scope="session")
def conformance() -> Iterator[Server]:
    """Echoes on two workers, bare Socket.IO, a quick heartbeat; shared."""
    env = {"PING_INTERVAL": "1000", "PING_TIMEOUT": "1500", "WSAPP_RECOVERY": "off", "WSAPP_DEFLATE": "on",
           "WSAPP_CONNECT_TIMEOUT": "4", "WSAPP_LOG_LEVEL": "debug"}
    with Server(workers=2, app="tests.apps.conformance:app", env=env) as server:
        yield server


@pytest.fixture(scope="session")
def witness(conformance: Server) -> Iterator[Witness]:
    """A bystander on each transport who must never notice what others do."""
    clients = [PythonClient(conformance.url, transport) for transport in ("websocket", "polling")]
    yield Witness(conformance, clients)
    for client in clients:
        client.close()
