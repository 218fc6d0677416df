"""Values that cross the ports."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from wsapp.core.events import Placed, Position
from wsapp.core.ports import HistoryQuery, Receipt, SavedSession


def test_a_receipt_knows_the_position_in_each_room() -> None:
    receipt = Receipt("41-0", (Placed("agent:1", 7, "e1"), Placed("task:2", 3, "e2")))
    assert receipt.positions == {"agent:1": Position("e1", 7), "task:2": Position("e2", 3)}
    assert (receipt.status, receipt.duplicate) == ("accepted", False)


def test_a_query_reads_the_oldest_forwards_by_default() -> None:
    query = HistoryQuery("agent:1")
    assert (query.since, query.limit, query.backwards) == (None, 1000, False)


def test_values_are_frozen_and_share_no_default() -> None:
    first, second = (SavedSession("s", "u", "w:1", {}) for _ in range(2))
    assert first == second and first.metadata is not second.metadata
    with pytest.raises(FrozenInstanceError):
        first.owner = "w:2"  # type: ignore[misc]
