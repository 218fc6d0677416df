"""Counters: of one worker, of all, and as Prometheus reads them."""

from __future__ import annotations

import re
from pathlib import Path

from wsapp.metrics import FIGURES, LATENCY_BOUNDS, NAMED, SUMMED, Kind, Metrics, summed, with_average


def test_a_fresh_worker_counts_zero() -> None:
    facts = Metrics().facts()
    assert set(facts.values()) == {0}
    assert set(facts) <= set(SUMMED)


def test_each_counter_has_its_own_name() -> None:
    metrics = Metrics()
    plain = [name for name in Metrics.__slots__ if name not in ("_named", "latency_buckets")]
    for number, name in enumerate(plain, 1):
        setattr(metrics, name, number)
    for number, figure in enumerate(NAMED, len(plain) + 1):
        for _ in range(number):
            metrics.count(figure.key)
    facts = metrics.facts()
    assert sorted(value for key, value in facts.items() if key != "latencyCount") == list(
        range(1, len(plain) + len(NAMED) + 1))


def test_a_latency_is_counted_in_one_bucket_for_each_delivery() -> None:
    metrics = Metrics()
    for latency_ms, deliveries in ((0.5, 1), (0.6, 2), (9_999.0, 3), (60_000.0, 4)):
        metrics.took(latency_ms, deliveries)
    assert metrics.latency_buckets == [1, 2, *[0] * (len(LATENCY_BOUNDS) - 3), 3, 4]
    assert metrics.facts()["latencyCount"] == 10
    assert metrics.facts()["latencySum"] == 0.5 + 1.2 + 3 * 9_999.0 + 4 * 60_000.0


def test_every_figure_has_one_key_one_name_and_a_text() -> None:
    assert len({one.key for one in FIGURES}) == len({one.name for one in FIGURES}) == len(FIGURES)
    assert all(one.help.endswith(".") and one.name.isidentifier() and one.name.islower() for one in FIGURES)
    assert not any(one.name.endswith("_total") for one in FIGURES)
    assert {one.key for one in FIGURES if one.kind is Kind.COUNTER} >= {one.key for one in NAMED}
    assert next(one for one in FIGURES if one.key == "usersRefused").metric == "wsapp_users_refused_total"


def test_the_average_is_over_all_deliveries() -> None:
    assert with_average({"latencySum": 0.0, "latencyCount": 0})["averageLatency"] == 0.0
    assert with_average({})["averageLatency"] == 0.0
    assert with_average({"latencySum": 10.0, "latencyCount": 4})["averageLatency"] == 2.5


def test_workers_are_added_up_and_the_average_is_weighted() -> None:
    one = {"messagesSent": 2, "latencySum": 10.0, "latencyCount": 1, "peakConnections": 3, "users": 1, "other": 9}
    two = {"messagesSent": 5, "latencySum": 2.0, "latencyCount": 3, "peakConnections": 4, "users": 2}
    total = summed(iter([one, two]))
    assert (total["messagesSent"], total["workers"], total["peakConnections"], total["users"]) == (7, 2, 7, 3)
    assert total["averageLatency"] == 3.0
    assert "other" not in total
    assert isinstance(total["messagesSent"], int)


def test_no_worker_and_nonsense_of_another_version() -> None:
    assert summed([])["workers"] == 0
    assert summed([{"messagesSent": "many"}, {"messagesSent": 1}])["messagesSent"] == 1


def test_whatever_is_counted_by_name_has_a_row() -> None:
    """Else the first client that is refused for that reason gets an error of the server instead."""
    counted = set()
    for path in (Path(__file__).parent.parent / "wsapp").rglob("*.py"):
        counted |= set(re.findall(r"count(?:\(|, )\"([a-z]+[A-Z]\w*)\"", path.read_text()))
    assert len(counted) > 10
    assert counted <= {one.key for one in NAMED}
