"""The promises about workers and Redis, each with many watchers: what is lost, doubled, out of order or untold."""

from __future__ import annotations

import itertools
import signal
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from tests.clients.fleet import Fleet, fresh, thoughts
from tests.fault.load import Load
from tests.fault.machine.oracle import Account, Oracle, Truth, View
from tests.fault.machine.publishers import enter
from tests.fault.machine.watchers import NodeWatchers
from tests.harness import Server, wait_until
from tests.valkey import Valkey
from wsapp.errors import BrokerUnavailable

pytestmark = [pytest.mark.cluster, pytest.mark.node]

RATE = {"MAX_EVENTS_PER_SEC": "2000", "WSAPP_DRAIN_TIMEOUT": "3"}
HOST = "tests.apps.host:app"
AGENTS = 40
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def nodes() -> Iterator[NodeWatchers]:
    with NodeWatchers() as watchers:
        yield watchers


def watch(nodes: NodeWatchers, server: Server, count: int) -> list[View]:
    """`count` clients, each in the room of one agent."""
    views = [View(f"npm {number}", [f"agent:a{number % AGENTS}"]) for number in range(count)]
    for view in views:
        nodes.open(view, server.url, {})
    wait_until(lambda: all(any(note.kind == "j" for note in view.notes) for view in views), "all are in", 60)
    return views


class Stream:
    """Publishes thoughts of all agents, `per_second` together, in small pipelines, until it is left."""

    def __init__(self, server: Server, per_second: float) -> None:
        self.truth, self.refused = Truth(), 0
        self._emitter, self._batch = server.emitter, max(1, int(per_second / 40))
        self._stop, self._tokens = threading.Event(), itertools.count(1)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set():
            tokens = list(itertools.islice(self._tokens, self._batch))
            begun = time.monotonic()
            try:
                receipts = self._emitter.publish_many([
                    ("agent-thought", {"agentId": f"a{token % AGENTS}", "thought": str(token), "k": token})
                    for token in tokens])
                for token, receipt in zip(tokens, receipts, strict=True):
                    enter(self.truth, token, receipt)
            except BrokerUnavailable as error:
                for token, receipt in zip(tokens, getattr(error, "receipts", []), strict=False):
                    enter(self.truth, token, receipt)
                self.refused += 1
            self._stop.wait(max(0.0, 0.025 - (time.monotonic() - begun)))


def settled(views: list[View]) -> None:
    """Nothing has come for two seconds."""
    before = -1
    while (now := sum(len(view.ids) for view in views)) != before:
        before = now
        time.sleep(2)


def judged(truth: Truth, views: list[View]) -> Account:
    """Everybody's account, which must be without a problem."""
    oracle = Oracle(truth)
    total = oracle.publishers()
    for view in views:
        total += oracle.judge(view)
    assert total.problems == []
    return total


def test_kill_9_under_a_thousand_events_a_second(nodes: NodeWatchers) -> None:
    """Two workers, 200 clients: nothing lost, order kept, no doubles after dedupe, no client told of a hole."""
    with Server(2, env=RATE) as server:
        views = watch(nodes, server, 200)
        with Stream(server, 1000) as stream:
            for turn in range(2):
                time.sleep(1.5)
                server.kill_worker(server.worker_pids()[turn])
                wait_until(lambda: len(server.worker_pids()) == 2, "the worker is replaced")
            time.sleep(2)
        settled(views)
        account = judged(stream.truth, views)
        assert account.counts["delivered"] > 5000
        assert not account.counts["told"] and not account.counts["shed and told"]


@pytest.mark.parametrize("emptied", [False, True])
def test_redis_killed_for_long_and_back(nodes: NodeWatchers, emptied: bool) -> None:
    """With its data nothing accepted is lost; without, every watcher of a room that lost something is told."""
    with Valkey(*(() if emptied else DURABLE)) as valkey, Server(2, valkey.url, RATE) as server:
        views = watch(nodes, server, 60)
        with Stream(server, 200) as stream:
            time.sleep(1.5)
            valkey.kill()
            time.sleep(4)
            valkey.start(valkey.port)
            wait_until(server.ready, "ready again")
            time.sleep(2)
        settled(views)
        account = judged(stream.truth, views)
        assert stream.refused > 0
        if emptied:
            assert all(any(note.kind == "r" for note in view.notes) for view in views), "everybody is told"
        else:
            assert not account.counts["told"]


def test_a_hung_redis_costs_no_emit_more_than_its_patience(fleet: Fleet) -> None:
    agent = fresh("agent")
    with Valkey() as valkey, Server(1, valkey.url, RATE, HOST) as server:
        fleet.npm(server).subscribe("agent", agent)
        took = []
        valkey.stop_process()
        try:
            for number in range(100):
                told = server.post("/publish", {"thought": {"agentId": agent, "thought": str(number)}}).json()
                assert told["status"] == "queued"
                took.append(told["took"])
        finally:
            valkey.cont()
        # The first one waits for its patience of 30 ms, the others for nothing; the rest is for a busy machine.
        assert statistics.quantiles(took, n=20)[-1] < 0.05
        assert max(took) < 0.25


def test_an_answer_that_was_lost_is_not_seen_twice(fleet: Fleet) -> None:
    agent = fresh("agent")
    with Valkey() as valkey, Server(1, valkey.url, RATE, HOST) as server:
        client = fleet.npm(server)
        client.subscribe("agent", agent)
        with Load(server, agent, view=True) as load:
            load.more(20)
            valkey.stop_process()  # Redis executes what is in its buffers once it goes on
            load.more(20)
            valkey.cont()
            load.more(20)
            wait_until(server.ready, "ready again")
        wait_until(lambda: f"thought {len(load.ids) - 1}" in thoughts(client, agent), "the last one")
        seen = thoughts(client, agent)
        assert len(seen) == len(set(seen))


def test_a_drain_tells_everybody_and_everybody_comes_back(nodes: NodeWatchers) -> None:
    """SIGTERM: each client is told when to return, gets 1012, and misses nothing on the next server."""
    count = 200
    with Server(2, env=RATE) as server:
        views = watch(nodes, server, count)
        with Stream(server, 100) as stream:
            time.sleep(1)
            assert server.terminate() == 0
            wait_until(lambda: nodes.codes[1012] == count, "1012 for everybody")
            assert nodes.told["h"] == count, "each was told before"
            server.start()
            wait_until(lambda: nodes.told["recovered True"] == count, "everybody is back", 60)
            time.sleep(1)
        settled(views)
        assert not judged(stream.truth, views).counts["told"]


def test_a_worker_that_drains_sends_its_clients_to_the_other(nodes: NodeWatchers) -> None:
    with Server(2, env=RATE) as server:
        views = watch(nodes, server, 100)
        with Stream(server, 200) as stream:
            time.sleep(1)
            before = set(server.worker_pids())
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not before & set(server.worker_pids()), "every worker is new", 60)
            wait_until(lambda: nodes.told["recovered True"] >= len(views), "everybody is back", 60)
            time.sleep(1)
        settled(views)
        assert not judged(stream.truth, views).counts["told"]
        assert set(nodes.codes) == {1012}
