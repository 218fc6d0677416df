"""What a worker knows to be revoked, with and without Redis."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from wsapp.auth import TokenRefused, revocation
from wsapp.errors import BrokerUnavailable
from wsapp.runtime import known_revocations
from wsapp.runtime.known_revocations import KnownRevocations

ANN, TOKEN = revocation("user", "ann"), revocation("jti", "t")


class Store:
    """A port that can be away."""

    def __init__(self) -> None:
        self.entries: dict[str, float] = {}
        self.away = False

    def revoke(self, entry: str, at: float, _until: float) -> None:
        self.entries[entry] = at

    def revoked(self, entries: Sequence[str]) -> dict[str, float]:
        if self.away:
            raise BrokerUnavailable("away")
        return {entry: self.entries[entry] for entry in entries if entry in self.entries}


@pytest.fixture
def store() -> Store:
    return Store()


def known_from(store: Store, leeway: float = 0.0) -> KnownRevocations:
    return KnownRevocations(store, leeway, lambda: 100.0)


@pytest.mark.parametrize(("issued", "refused"), [(None, True), (99.0, True), (104.9, True), (105.1, False)])
def test_tokens_until_the_leeway_are_old_ones(store: Store, issued: float | None, refused: bool) -> None:
    known = known_from(store, leeway=5.0)
    store.revoke(ANN, 100.0, 200.0)
    if refused:
        with pytest.raises(TokenRefused):
            known.refuse([ANN], issued)
    else:
        known.refuse([ANN], issued)


def test_a_token_id_is_revoked_whenever_it_was_issued(store: Store) -> None:
    store.revoke(TOKEN, 100.0, 200.0)
    with pytest.raises(TokenRefused):
        known_from(store).refuse([TOKEN], 1e9)


def test_memory_stands_in_for_redis(store: Store) -> None:
    known = known_from(store)
    known.remember(TOKEN, 90.0, 101.0)
    store.away = True
    with pytest.raises(TokenRefused):
        known.refuse([TOKEN], None)
    known.refuse([ANN], None)
    assert known.unchecked
    assert list(known.look_again([ANN])) == []
    assert known.unchecked
    store.away = False
    store.revoke(ANN, 95.0, 200.0)
    assert list(known.look_again([ANN, ANN])) == [(ANN, 95.0, 160.0)]
    assert not known.unchecked


def test_memory_is_bounded_and_lapses(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_revocations, "REMEMBERED", 3)
    known = known_from(store)
    for number in range(5):
        known.remember(f"jti:{number}", 90.0, 200.0)
    known.remember("jti:4", 80.0, 99.0)  # an older message changes nothing
    known.remember("jti:old", 80.0, 99.0)
    assert known.remembered() == {"jti:3": 90.0, "jti:4": 90.0}
