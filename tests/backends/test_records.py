from __future__ import annotations

import pytest

from wsapp.backends.records import base36, milliseconds, read_receipt, split_owner, unique
from wsapp.core.events import Placed


def test_read_receipt() -> None:
    receipt = read_receipt("00ab\tagent:a\t7\te-1\ttask:b\t1\te-2", duplicate=True)
    assert (receipt.id, receipt.duplicate) == ("00ab", True)
    assert receipt.places == (Placed("agent:a", 7, "e-1"), Placed("task:b", 1, "e-2"))


def test_base36() -> None:
    numbers = [0, 1, 35, 36, 2**53 - 1]
    assert [int(base36(number), 36) for number in numbers] == numbers


@pytest.mark.parametrize("owner", ["", "a", "a:", ":b"])
def test_owners_that_are_none(owner: str) -> None:
    with pytest.raises(ValueError, match="boot id"):
        split_owner(owner)


def test_split_owner_at_the_first_colon() -> None:
    assert split_owner("boot:s:id") == ("boot", "s:id")


def test_milliseconds_are_never_zero() -> None:
    assert [milliseconds(seconds) for seconds in (0.0, 0.0001, 1.5)] == [1, 1, 1500]


def test_unique_keeps_the_order() -> None:
    assert unique(["b", "a", "b"]) == ["b", "a"]
