"""Keys of the API, held against both families."""

from __future__ import annotations

from tests.backends.conftest import World
from wsapp.core.api_keys import make_key


def test_added_once_listed_by_name_and_removed(world: World) -> None:
    store = world.open().api_keys
    assert store.all() == []
    second, _ = make_key("b", ["publish", "read"], 12.5)
    first, _ = make_key("a", ["admin"], 3)
    assert store.add(second)
    assert store.add(first)
    assert not store.add(make_key("a", ["read"], 4)[0])
    assert store.all() == [first, second]
    assert store.remove("a")
    assert not store.remove("a")
    assert store.all() == [second]
