"""Ended sessions of a user are bounded, and those of others are their own."""

from __future__ import annotations

import pytest

from wsapp.core.ports import ANONYMOUS
from wsapp.errors import BrokerUnavailable
from wsapp.runtime import kept_sessions as module
from wsapp.runtime.kept_sessions import PER_USER, WITHIN, KeptSessions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_oldest_of_a_user_goes() -> None:
    dropped: list[tuple[str, str]] = []
    clock = Clock()
    kept = KeptSessions(lambda id, owner: dropped.append((id, owner)), lambda: 1, clock)
    for number in range(PER_USER + 2):
        kept.ended("ann", f"s{number}", f"boot:{number}")
        kept.ended("bob" if number % 2 else "cid", f"other{number}", "boot:x")
    assert dropped == [("s0", "boot:0"), ("s1", "boot:1")]
    clock.now = WITHIN + 1
    kept.ended("ann", "later", "boot:y")
    assert len(dropped) == 2, "those that have lapsed do not count"


def test_those_without_a_user_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHOUT_USER", 5)
    dropped: list[str] = []
    kept = KeptSessions(lambda id, owner: dropped.append(id), lambda: 1, Clock())
    for number in range(7):
        kept.ended(f"{ANONYMOUS}{number}", f"s{number}", "boot:x")
    assert dropped == ["s0", "s1"]


def test_users_are_bounded_too_and_a_broker_that_is_away_is_no_error(monkeypatch: pytest.MonkeyPatch,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "MOST_USERS", 3)
    monkeypatch.setattr(module, "PER_USER", 1)

    def away(_id: str, _owner: str) -> None:
        raise BrokerUnavailable("away")

    kept = KeptSessions(away, lambda: 0, Clock())
    with caplog.at_level("INFO"):
        for number in range(10):
            kept.ended(f"user{number // 2}", f"s{number}", "boot:x")
    assert len(kept._users) == 3
    assert "lapses by itself" in caplog.text


def test_a_drained_worker_keeps_all_of_its_sessions() -> None:
    dropped: list[str] = []
    kept = KeptSessions(lambda id, owner: dropped.append(id), lambda: 2 * PER_USER, Clock())
    for number in range(4 * PER_USER):
        kept.ended("service", f"s{number}", "boot:x")
    assert dropped == []
