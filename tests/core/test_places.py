"""Who has to give up a place, and who never has to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsapp.core.places import Places


def test_the_address_that_has_most_loses_its_oldest() -> None:
    places: Places[int] = Places()
    for number in range(5):
        places.enter(number, "few" if number < 2 else "many", float(number))
    assert places.oldest() == (2, 2.0)
    places.work(2)
    assert places.oldest() in ((3, 3.0), (0, 0.0))
    places.rest(2, 9.0)
    assert places.oldest() == (3, 3.0), "who was at work is the youngest"
    places.leave(3)
    places.leave(3)
    assert (len(places), 3 in places, places.idle_of("many"), places.idle_of("nobody")) == (4, False, 2, 0)


def test_who_is_at_work_loses_nothing() -> None:
    places: Places[int] = Places()
    places.enter(1, "a", 0.0)
    places.work(1)
    places.work(1)
    assert places.oldest() is None
    places.move(1, "b")
    places.rest(1, 1.0)
    assert (places.address_of(1), places.oldest()) == ("b", (1, 1.0))
    places.rest(2, 1.0)
    assert 2 not in places


def test_since_when() -> None:
    places: Places[str] = Places()
    for moment, key in enumerate("abc"):
        places.enter(key, key, float(moment))
    assert sorted(places.idle_since(2.0)) == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "work", "rest", "move"]), st.integers(0, 5),
                          st.sampled_from("xyz"))))
def test_nothing_is_kept_of_who_has_left(steps: list[tuple[str, int, str]]) -> None:
    places: Places[int] = Places()
    inside: dict[int, bool] = {}  # whether it is idle
    for moment, (step, key, address) in enumerate(steps):
        if step == "enter" and key not in inside:
            places.enter(key, address, float(moment))
            inside[key] = True
        elif step == "leave":
            places.leave(key)
            inside.pop(key, None)
        elif step == "work":
            places.work(key)
            inside.update({key: False} if key in inside else {})
        elif step == "rest":
            places.rest(key, float(moment))
            inside.update({key: True} if key in inside else {})
        elif step == "move":
            places.move(key, address)
            inside.update({key: False} if key in inside else {})
    assert len(places) == len(inside)
    assert sum(places.idle_of(address) for address in "xyz") == sum(inside.values())
    for key in list(inside):
        places.leave(key)
    assert (len(places), places.oldest(), places._idle) == (0, None, {})
