"""A worker without its transport for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.blueprints.conftest import place
from tests.runtime.world import World

__all__ = ["place"]


@pytest.fixture
def world() -> Iterator[World]:
    """Unthrottled."""
    world = World()
    yield world
    world.close()


@pytest.fixture
def throttled() -> Iterator[World]:
    """Two events a second and user, eight may wait."""
    world = World(rate=2, max_items=8)
    yield world
    world.close()
