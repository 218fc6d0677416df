"""Who would lose something waits a moment for a Redis that is away, and only that moment; one asks for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent
import pytest

from tests.runtime.world import eventually
from wsapp.core.link import LinkState
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime import link as module
from wsapp.runtime import outlet
from wsapp.runtime.link import Links
from wsapp.runtime.outlet import Outlet

CROWD = 200
COUNT = 2


class Part:
    """A partition that can be away; how often it was asked."""

    def __init__(self, number: int) -> None:
        self.number, self.away, self.asked = number, False, 0

    def ping(self) -> float:
        self.ask()
        return 0.0

    def ask(self) -> str:
        self.asked += 1
        if self.away:
            error = BrokerUnavailable("away")
            error.partition = self.number
            raise error
        return "here"


class Place:
    """Links with their probes."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.links = Links(lambda state: self.states.append(state.name), COUNT)
        self.parts = [Part(number) for number in range(COUNT)]
        self.probes = [gevent.spawn(Outlet(lambda _drafts: [], part, link, Metrics(),  # type: ignore[arg-type]
                                           lambda _publication: None).run)
                       for part, link in zip(self.parts, self.links.parts, strict=True)]

    def wait(self, question: Callable[[], str], within: float = 60.0) -> str:
        """Ask until there is an answer, as `Lifecycle` does."""
        while True:
            try:
                return question()
            except BrokerUnavailable as error:
                if not self.links.wait_after(error, time.monotonic() + within):
                    raise


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(module, "OUTAGE_WAIT_S", 0.5)
    monkeypatch.setattr(outlet, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(outlet, "LONGEST_PAUSE", 0.05)
    place = Place()
    yield place
    gevent.killall(place.probes)


def test_one_asks_for_all_and_all_have_it_at_the_return(place: Place) -> None:
    part = place.parts[0]
    part.away = True
    crowd = [gevent.spawn(place.wait, part.ask) for _ in range(CROWD)]
    eventually(lambda: part.asked > CROWD)
    assert CROWD < part.asked < CROWD + 40, "each once, and then one for all"
    assert place.links.state is LinkState.DOWN
    part.away = False
    gevent.joinall(crowd, timeout=5)
    assert [one.value for one in crowd] == ["here"] * CROWD
    assert place.states == ["DOWN", "UP"]


def test_an_outage_that_lasts_is_reported_and_then_nobody_waits(place: Place) -> None:
    part = place.parts[0]
    part.away = True
    crowd = [gevent.spawn(place.wait, part.ask) for _ in range(3)]
    gevent.joinall(crowd, timeout=5)
    assert all(isinstance(one.exception, BrokerUnavailable) for one in crowd)
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        place.wait(part.ask)
    assert time.monotonic() - begun < 0.3
    part.away = False
    with gevent.Timeout(5):
        while place.links.state is not LinkState.UP:
            gevent.sleep(0.01)
    part.away = True
    again = gevent.spawn(place.wait, part.ask)
    gevent.sleep(0.1)
    assert not again.ready(), "this is another outage"
    part.away = False
    assert again.get(timeout=5) == "here"


def test_no_longer_than_the_deadline(place: Place) -> None:
    place.parts[0].away = True
    with pytest.raises(BrokerUnavailable):
        place.wait(place.parts[0].ask, within=0.0)
    assert place.parts[0].asked == 1


def test_a_failed_question_alone_does_not_make_the_link_down(place: Place) -> None:
    """A single answer came late: the probe is answered, and no client is told."""
    answers = iter([BrokerUnavailable("late"), None])

    def ask() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "here"

    assert place.wait(ask) == "here"
    assert (place.states, place.links.state) == ([], LinkState.UP)
    assert place.parts[0].asked == 1, "the probe"
    assert not place.links.parts[0].troubled


def test_of_several_partitions_one_that_answers_does_not_end_the_outage_of_another(place: Place) -> None:
    place.parts[1].away = True
    waiting = gevent.spawn(place.wait, place.parts[1].ask)
    deadline = time.monotonic() + 5
    while not waiting.ready() and time.monotonic() < deadline:
        assert place.wait(place.parts[0].ask) == "here"
        gevent.sleep(0.01)
    assert isinstance(waiting.exception, BrokerUnavailable)
    assert place.links.reason == "partition 1: away"


def test_a_background_task_rests_until_its_partition_answers(place: Place) -> None:
    place.parts[1].away = True
    with pytest.raises(BrokerUnavailable) as caught:
        place.parts[1].ask()
    resting = gevent.spawn(place.links.rest_after, caught.value, 0.01)
    gevent.sleep(0.8)  # longer than clients wait
    assert not resting.ready()
    place.parts[1].away = False
    resting.get(timeout=5)
