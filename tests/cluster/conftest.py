"""Fixtures of the cluster tests: two shared clusters for the tests that break nothing, and clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.fleet import Fleet
from tests.clients.node_client import Node
from tests.harness import Server, show_server_logs

pytest_runtest_makereport = show_server_logs


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
