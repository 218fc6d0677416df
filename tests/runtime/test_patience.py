"""Who would lose something waits a moment for a Redis that is away, and only that moment."""

from __future__ import annotations

import time

import gevent
import pytest

from wsapp.errors import BrokerUnavailable
from wsapp.runtime import patience
from wsapp.runtime.patience import Patience

CROWD = 200


class Away:
    """A question to something that is away until `back`; the greenlets that asked, one entry for each attempt."""

    def __init__(self) -> None:
        self.back, self.asked = False, list[object]()

    def __call__(self) -> str:
        self.asked.append(gevent.getcurrent())
        if not self.back:
            raise BrokerUnavailable("away")
        return "here"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MOST", 0.5)
    monkeypatch.setattr(patience, "PAUSE", 0.02)


def asking(waits: Patience, away: Away, gone: bool = False) -> gevent.Greenlet:
    return gevent.spawn(waits.ask, away, lambda: gone, time.monotonic() + 60)


def test_one_tries_for_all_and_all_have_it_at_the_return() -> None:
    waits, away = Patience(), Away()
    crowd = [asking(waits, away) for _ in range(CROWD)]
    gevent.sleep(0.2)
    assert len(away.asked) < CROWD + 40, "each once, and then one for all"
    away.back = True
    gevent.joinall(crowd, timeout=5)
    assert [one.value for one in crowd] == ["here"] * CROWD
    assert len(away.asked) < 2 * CROWD + 40


def test_an_outage_that_lasts_is_told_and_then_nobody_waits() -> None:
    waits, away = Patience(), Away()
    crowd = [asking(waits, away) for _ in range(3)]
    gevent.joinall(crowd, timeout=5)
    assert all(isinstance(one.exception, BrokerUnavailable) for one in crowd)
    before = len(away.asked)
    with pytest.raises(BrokerUnavailable):
        waits.ask(away, lambda: False, time.monotonic() + 60)
    assert len(away.asked) == before + 1
    waits.returned()
    again = asking(waits, away)
    gevent.sleep(0.1)
    assert not again.ready(), "this is another outage"
    away.back = True
    assert again.get(timeout=5) == "here"


def test_who_has_gone_and_whose_time_is_up_is_not_waited_with() -> None:
    waits, away = Patience(), Away()
    for gone, until in ((True, time.monotonic() + 60), (False, time.monotonic())):
        with pytest.raises(BrokerUnavailable):
            waits.ask(away, lambda gone=gone: gone, until)  # type: ignore[misc]
    assert len(away.asked) == 2


def test_of_several_partitions_one_that_answers_does_not_end_the_outage_of_another() -> None:
    waits, away, there = Patience(whole=False), Away(), Away()
    there.back = True
    waiting = asking(waits, away)
    deadline = time.monotonic() + 5
    while not waiting.ready() and time.monotonic() < deadline:
        assert asking(waits, there).get(timeout=5) == "here"
        gevent.sleep(0.01)
    assert isinstance(waiting.exception, BrokerUnavailable)
