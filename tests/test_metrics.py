"""Counters: of one worker, of all, and as Prometheus reads them."""

from __future__ import annotations

import re

from wsapp.metrics import NAMED, SUMMED, Metrics, prometheus, summed, with_average


def test_a_fresh_worker_counts_zero() -> None:
    facts = Metrics().facts()
    assert set(facts.values()) == {0}
    assert set(facts) <= set(SUMMED)


def test_each_counter_has_its_own_name() -> None:
    metrics = Metrics()
    plain = [name for name in Metrics.__slots__ if name != "_named"]
    for number, name in enumerate(plain, 1):
        setattr(metrics, name, number)
    for number, name in enumerate(NAMED, len(plain) + 1):
        for _ in range(number):
            metrics.count(name)
    assert sorted(metrics.facts().values()) == list(range(1, len(plain) + len(NAMED) + 1))


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


def test_the_text_for_prometheus() -> None:
    text = prometheus({"messagesSent": 3, "averageLatency": 1.5, "activeConnections": 2, "mode": "live", "ready": True})
    assert text == ("# TYPE wsapp_messages_sent counter\nwsapp_messages_sent 3\n"
                    "# TYPE wsapp_average_latency gauge\nwsapp_average_latency 1.5\n"
                    "# TYPE wsapp_active_connections gauge\nwsapp_active_connections 2\n")


def test_every_name_is_one_that_prometheus_takes() -> None:
    lines = prometheus(summed([Metrics().facts()])).splitlines()
    assert lines
    assert all(re.fullmatch(r"# TYPE [a-z_]+ (counter|gauge)|[a-z_]+ [0-9.]+", line) for line in lines)
