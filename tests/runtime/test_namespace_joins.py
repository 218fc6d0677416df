"""Joins of namespaces by connection and user."""

from __future__ import annotations

from wsapp.runtime.namespace_joins import NamespaceJoins


def test_connections_of_a_user_are_counted_once() -> None:
    joins = NamespaceJoins()
    joins.add("s1", "c1", "ann")
    joins.add("s2", "c1", "ann")
    joins.add("s3", "c2", "ann")
    joins.add("s4", "c2", "bob")
    joins.add("s5", "c3", None)
    assert (joins.of("c1"), joins.of("c3"), joins.of("c9")) == (["s1", "s2"], ["s5"], [])
    assert joins.beside("ann", ()) == 2
    assert joins.beside("ann", {"c1"}) == 1
    for sid in ("s3", "s4", "s4"):
        joins.leave(sid)
    assert (joins.beside("ann", ()), joins.beside("bob", ()), joins.of("c2")) == (1, 0, [])


def test_nothing_stays_of_connections_that_are_gone() -> None:
    joins = NamespaceJoins()
    for number in range(100):
        joins.add(f"s{number}", f"c{number}", f"u{number % 3}")
    for number in range(100):
        joins.leave(f"s{number}")
    assert not (joins._of_connection or joins._of_user or joins._joins)
