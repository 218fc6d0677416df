"""One scrape describes the whole server, whichever worker answers it, and no counter is ever seen to go back."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.clients.fleet import Fleet, fresh, publish
from tests.harness import Server, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.node]


def scrape(server: Server) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples of each name, by labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(server.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_one_scrape_shows_every_worker(cluster: Server, fleet: Fleet) -> None:
    agent = fresh("scraped")
    before = scrape(cluster)
    clients = fleet.many(cluster, "npm", "websocket", 20)
    for client in clients:
        client.subscribe("agent", agent)
    ids = publish(cluster, agent, 5)
    for client in clients:
        client.wait_ids(ids)
    after = scrape(cluster)
    assert len(after["wsapp_connections"]) == 2
    assert sum(after["wsapp_connections"].values()) - sum(before["wsapp_connections"].values()) == 20

    def grown(name: str) -> float:
        return sum(after[name].values()) - sum(before[name].values())

    assert grown("wsapp_events_delivered_total") == 100
    assert grown("wsapp_event_delivery_seconds_count") >= 100, "the workers' own probes are in there, too"
    assert 0 < grown("wsapp_event_delivery_seconds_sum") < 100 * 30
    assert set(after["wsapp_ready"].values()) == {1}
    assert after["wsapp_workers"] == {(): 2}
    assert len(set(after["wsapp_process_cpu_seconds_total"].values())) == 2


def test_no_counter_goes_back_whoever_answers(cluster: Server, fleet: Fleet) -> None:
    """A scrape reaches another worker each time; each counter keeps its worker's label and only grows."""
    agent = fresh("scraped")
    client = fleet.npm(cluster)
    client.subscribe("agent", agent)
    seen: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for _ in range(20):
        publish(cluster, agent, 3)
        for name, samples in scrape(cluster).items():
            for labels, value in samples.items():
                if name.endswith(("_total", "_count", "_bucket", "_sum")):
                    assert value >= seen.get((name, labels), 0), (name, labels)
                    seen[name, labels] = value
    wait_until(lambda: len(client.items()) == 60, "all events")
