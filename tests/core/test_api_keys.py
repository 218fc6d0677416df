"""API keys: made, written down, judged, with a store that may be away."""

from __future__ import annotations

import pytest

from wsapp.backends.memory_api_keys import MemoryApiKeys
from wsapp.core.api_keys import MAX_LOOKUPS, ApiKey, KeyTable, check_scopes, digest_of, make_key, parse_key
from wsapp.errors import BrokerUnavailable


class Store(MemoryApiKeys):
    away, reads = False, 0

    def all(self) -> list[ApiKey]:
        self.reads += 1
        if self.away:
            raise BrokerUnavailable("away")
        return super().all()


def test_a_made_key_can_be_written_as_a_setting() -> None:
    key, secret = make_key("ci", ["publish", "read"], 5.0)
    assert key.digest == digest_of(secret)
    assert parse_key(f"ci:publish+read:{key.digest}") == ApiKey("ci", key.scopes, key.digest)
    assert secret not in str(key)
    assert key.digest not in str(key)
    assert make_key("ci", ["read"], 5.0)[1] != secret


@pytest.mark.parametrize("text", ["", "ci", "ci:read", "ci:read:123", "ci::" + "0" * 64, "ci:red:" + "0" * 64,
                                  "c i:read:" + "0" * 64, "ci:read:" + "g" * 64])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|scope"):
        parse_key(text)


def test_scopes_are_few() -> None:
    assert check_scopes(["read", "read"]) == {"read"}
    for wrong in ([], ["all"]):
        with pytest.raises(ValueError, match="no scope"):
            check_scopes(wrong)


def test_the_table_knows_configured_and_stored_keys() -> None:
    now, store = [0.0], Store()
    configured, first = make_key("a", ["read"], 0)
    kept, second = make_key("b", ["admin"], 0)
    table = KeyTable([configured], store, lambda: now[0])
    assert table.find(first) is configured
    assert table.find(second) is None
    assert not table.empty()
    store.add(kept)
    assert table.find(second) == kept, "a new key is known at once"
    store.remove("b")
    assert table.find(second) == kept, "read once a second"
    now[0] = 1.0
    assert table.find(second) is None


def test_while_the_store_is_away_its_last_word_counts() -> None:
    now, store = [0.0], Store()
    key, secret = make_key("a", ["read"], 0)
    store.add(key)
    store.away = True
    table = KeyTable([], store, lambda: now[0])
    with pytest.raises(BrokerUnavailable):
        table.find(secret)
    store.away = False
    assert table.find(secret) == key
    store.away, now[0] = True, 100.0
    assert table.find(secret) == key


def test_guesses_cost_the_store_little() -> None:
    now, store = [0.0], Store()
    table = KeyTable([], store, lambda: now[0])
    for number in range(1000):
        assert table.find(f"guess {number}") is None
    assert store.reads == 1 + MAX_LOOKUPS
    key, secret = make_key("a", ["read"], 0)
    store.add(key)
    assert table.find(secret) is None, "as long as somebody guesses"
    now[0] = 1.0
    assert table.find(secret) == key
