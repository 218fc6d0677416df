"""Who gives way when all HTTP connections of a worker are taken."""

from __future__ import annotations

import resource

import pytest

from wsapp.transport import slots as slots_module
from wsapp.transport.slots import LEAST, OTHERS, OWN_DESCRIPTORS, PER_CONNECTION, SPARE, Slot, Slots, slots_for

ONE, TWO = ("10.0.0.1", 1), ("10.0.0.2", 1)


class Held:
    """A worker with `limit` places; what gave way, and what was counted."""

    def __init__(self, limit: int) -> None:
        self.cut: list[str] = []
        self.told: list[str] = []
        self.at_work: set[str] = set()
        self.slots = Slots(limit, self.told.append)

    def enter(self, name: str, peer: object = ONE) -> Slot | None:
        def give_way() -> bool:
            if name in self.at_work:
                return False
            self.cut.append(name)
            return True

        return self.slots.enter(peer, give_way)


def test_the_oldest_of_the_address_that_has_most_gives_way(caplog: pytest.LogCaptureFixture) -> None:
    held = Held(4)
    for name in ("a", "b", "c"):
        held.enter(name)
    held.enter("other", TWO)
    assert held.enter("new", ("10.0.0.3", 1)) is not None
    assert held.enter("newer", ("10.0.0.3", 1)) is not None
    assert held.cut == ["a", "b"] or held.cut == ["a", "other"]
    assert held.told == ["httpClosed"] * 2
    assert "'10.0.0.1', which has 3: all 4 are taken" in caplog.text


def test_who_is_at_work_stays_and_the_next_gives_way() -> None:
    held = Held(3)
    first, second = held.enter("first"), held.enter("second")
    held.enter("third")
    assert first is not None and second is not None
    first.work()
    held.at_work.add("second")  # as a body that has all come
    held.enter("new")
    assert held.cut == ["third"]
    first.rest()
    held.enter("newer", TWO)
    assert held.cut == ["third", "new"] or held.cut == ["third", "first"]


def test_when_all_are_at_work_some_more_are_read_from_and_no_more() -> None:
    held = Held(2)
    for name in ("a", "b"):
        slot = held.enter(name)
        assert slot is not None and not slot.late
        slot.work()
    late = [held.enter(f"late {number}") for number in range(SPARE)]
    assert all(slot is not None and slot.late for slot in late)
    assert held.cut == []
    assert held.enter("one more") is not None
    assert held.cut == ["late 0"], "they take from each other"
    for slot in late[1:]:
        assert slot is not None
        slot.work()
    one = held.enter("another")
    assert one is not None and held.cut == ["late 0", "one more"]
    one.work()
    assert held.enter("too much") is None
    assert held.told[-1] == "httpRefused"


def test_a_proxy_tells_whose_a_connection_is() -> None:
    held = Held(3)
    for name in ("a", "b", "c"):
        slot = held.enter(name, ("127.0.0.1", 1))
        assert slot is not None
        slot.is_of("10.9.9.9" if name == "a" else "10.8.8.8")
        slot.rest()
    held.enter("new", ("127.0.0.1", 1))
    assert held.cut == ["b"]


@pytest.mark.parametrize("peer", ["", (), b"", None])
def test_a_unix_socket_has_no_address(peer: object) -> None:
    assert Held(1).enter("a", peer) is not None


def test_leaving_twice() -> None:
    held = Held(1)
    slot = held.enter("a")
    assert slot is not None
    slot.leave()
    slot.leave()
    slot.rest()
    assert len(held.slots.places) == 0


@pytest.mark.parametrize(("soft", "hard", "limit", "raised"), [
    (65_536, 65_536, PER_CONNECTION * 1000 + OTHERS, None),
    (1024, 65_536, PER_CONNECTION * 1000 + OTHERS, OWN_DESCRIPTORS + 3 * 1000 + OTHERS + SPARE),
    (1024, resource.RLIM_INFINITY, PER_CONNECTION * 1000 + OTHERS, OWN_DESCRIPTORS + 3 * 1000 + OTHERS + SPARE),
    (1024, 2048, 2048 - OWN_DESCRIPTORS - SPARE - 1000, 2048), (1024, 1024, LEAST, 1024),
    (resource.RLIM_INFINITY, resource.RLIM_INFINITY, PER_CONNECTION * 1000 + OTHERS, None)])
def test_the_limit_of_descriptors_is_raised_or_obeyed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
                                                      soft: int, hard: int, limit: int, raised: int | None) -> None:
    """The limits of this process stay as they are: what the kernel would be told is noted."""
    told: list[int] = []
    monkeypatch.setattr(slots_module.resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(slots_module.resource, "setrlimit", lambda _which, limits: told.append(limits[0]))
    assert slots_for(1000, 1, lambda name: None).limit == limit
    assert told == ([] if raised is None else [raised])
    assert ("LimitNOFILE=" in caplog.text) == (limit < PER_CONNECTION * 1000 + OTHERS)
