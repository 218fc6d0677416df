from __future__ import annotations

import pytest

from wsapp.core.link import AFTER, Backoff, LinkEvent, LinkState, worst


def test_the_table_is_complete_and_every_state_can_be_left_and_reached() -> None:
    assert set(AFTER) == {(state, event) for state in LinkState for event in LinkEvent}
    assert {AFTER[state, LinkEvent.LOST] for state in LinkState} == {LinkState.DOWN}
    assert {AFTER[state, LinkEvent.ANSWERED] for state in LinkState} == {LinkState.CATCHING_UP}
    assert {AFTER[state, LinkEvent.CAUGHT_UP] for state in LinkState} == {LinkState.UP}


@pytest.mark.parametrize(("states", "expected"), [
    ("UP UP", "UP"), ("UP CATCHING_UP", "CATCHING_UP"), ("CATCHING_UP DOWN UP", "DOWN"), ("DOWN", "DOWN")])
def test_the_worst_link_speaks_for_all(states: str, expected: str) -> None:
    assert worst(tuple(LinkState[name] for name in states.split())) is LinkState[expected]


def test_pauses_double_up_to_the_longest_and_begin_again() -> None:
    backoff = Backoff(1.0, 5.0)
    for full in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert full / 2 <= backoff.next_s() <= full
    backoff.reset()
    assert backoff.next_s() <= 1.0
    for _ in range(5000):
        backoff.next_s()
    assert backoff.next_s() <= 5.0


def test_workers_do_not_return_in_step() -> None:
    assert len({Backoff(1.0, 5.0).next_s() for _ in range(50)}) > 40
