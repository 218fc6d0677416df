"""What a worker reports about itself, and about all workers."""

from __future__ import annotations

import pytest

from tests.blueprints.conftest import Place
from tests.blueprints.conftest import place as place
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import FIGURES


def test_every_figure_is_reported(place: Place) -> None:
    figures = place.server.figures
    assert {one.key for one in FIGURES} - figures.own().keys() <= {"canaryDelay"}, "there is no canary in memory"
    report = figures.report()
    assert (report["mode"], len(report["latencyBuckets"])) == ("normal", 15)  # type: ignore[arg-type]


def test_rooms_and_users_are_those_of_now(place: Place) -> None:
    client = place.client()
    client.ask("subscribe-agent", ["a", "b"])
    assert [place.server.figures.own()[name] for name in ("rooms", "users", "activeConnections")] == [2, 1, 1]
    client.ask("unsubscribe-agent", "a")
    assert place.server.figures.own()["rooms"] == 1


def test_a_draining_worker_says_so(place: Place) -> None:
    place.server.drain(0)
    assert (place.server.figures.own()["draining"], place.server.figures.own()["ready"]) == (1, 0)


def test_everywhere_adds_up_the_leases_of_the_others(place: Place) -> None:
    place.client()
    place.server.hub.backend.cluster.beat("another", {"activeConnections": 4, "messagesSent": 2}, 10.0)
    facts = place.server.get_metrics()
    assert (facts["activeConnections"], facts["worker"]["activeConnections"]) == (1, 1)
    assert (facts["cluster"]["activeConnections"], facts["cluster"]["workers"]) == (5, 2)


def test_while_redis_is_away_there_is_only_this_worker(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> dict[str, dict[str, object]]:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(place.server.hub.backend.cluster, "workers", away)
    assert place.server.get_metrics()["cluster"] is None
    reports, missing = place.server.figures.reports()
    assert (list(reports), missing) == ([place.server.token], [])


def test_a_worker_that_does_not_answer_is_named(place: Place) -> None:
    place.server.hub.backend.cluster.beat("silent", {"activeConnections": 4}, 10.0)
    reports, missing = place.server.figures.reports()
    assert (list(reports), missing) == ([place.server.token], ["silent"])
