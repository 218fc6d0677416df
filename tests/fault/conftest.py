"""Fixtures of the fault tests: every test breaks something, so each has servers of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.fleet import Fleet
from tests.clients.node_client import Node
from tests.harness import show_server_logs

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
