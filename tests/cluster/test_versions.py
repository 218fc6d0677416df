"""Two neighbouring releases in one cluster: both serve, both publish, clients move between them, forward and back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self, cast

import pytest
import redis

from tests.clients.fleet import Fleet, fresh, publish
from tests.clients.recorder import Recorder
from tests.fault.load import Load
from tests.harness import ROOT, Server, wait_until
from tests.proxies import Balancer
from tests.valkey import Valkey
from wsapp.core.events import parse_record

pytestmark = [pytest.mark.cluster, pytest.mark.node]

# The release before this one; mixing begins there (CHANGELOG.md).  A tag, once there are releases.
PREVIOUS: Final = "642fea30614d0630a6530559448234be65bebeb7"
SECONDS: Final = float(os.environ.get("MIXED_SECONDS", "10"))  # of each of the six steps
ENV: Final = {"WSAPP_DRAIN_TIMEOUT": "4", "MAX_EVENTS_PER_SEC": "1000", "WSAPP_CATCH_UP_LIMIT": "0"}
PUBLISH: Final = """
import select, sys
from wsapp import Emitter
emitter, number = Emitter(sys.argv[1], timeout=5.0), 0
while not select.select([sys.stdin], [], [], 0.02)[0]:
    receipt = emitter.broadcast_agent_thought({"agentId": sys.argv[2], "thought": f"of the release before {number}"})
    print(receipt.id, flush=True)
    number += 1
"""


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before."""
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"git does not have {PREVIOUS} here: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


class PreviousPublisher:
    """A publisher of the release before, in a process of its own, until it is left; `ids` are what it published."""

    def __init__(self, root: Path, url: str, agent: str, output: Path) -> None:
        self._output = output
        with output.open("wb") as out:
            self._process = subprocess.Popen([sys.executable, "-c", PUBLISH, url, agent], cwd=root, stdout=out,
                                             stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)})

    @property
    def ids(self) -> list[str]:
        return self._output.read_text().split()

    def __enter__(self) -> Self:
        wait_until(lambda: self.ids, "the release before publishes")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.poll() is None, "it ended by itself"
        self._process.stdin.close()
        self._process.wait(30)


class Pair:
    """A server of each release on one Redis, nginx before them."""

    def __init__(self, opened: ExitStack, folder: Path, previous: Path) -> None:
        self.valkey = Valkey().start()
        opened.callback(self.valkey.close)
        self.previous = previous
        self.old, self.new = (opened.enter_context(Server(2, redis_url=self.valkey.url, env=ENV, root=root))
                              for root in (previous, ROOT))
        self.front = cast(Server, opened.enter_context(Balancer(folder, (self.old, self.new))))

    def recorded(self, agent: str) -> list[str]:
        """The ids in the history of a room, in order; its numbers are without a hole."""
        with redis.Redis.from_url(self.valkey.url) as client:
            entries = client.xrange(f"wsapp:{{0}}:stream:agent:{agent}")
        found = [parse_record(fields[b"r"]) for _, fields in entries]
        assert [one.seq(f"agent:{agent}") for one in found] == list(range(1, len(found) + 1))
        return [one.id for one in found]


@pytest.fixture
def pair(tmp_path: Path, previous: Path) -> Iterator[Pair]:
    with ExitStack() as opened:
        yield Pair(opened, tmp_path, previous)


def replace(server: Server, root: Path) -> None:
    """Another release is deployed on a host."""
    server.terminate()
    server.root = root
    server.start()


def move(clients: list[Recorder]) -> None:
    """Clients lose their WebSockets one after the other, and come back wherever the balancer lets them."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for client in clients:
            if client.connected and client.transport() == "websocket":
                client.drop()
                time.sleep(SECONDS / 4 / len(clients))


def test_nothing_is_lost_doubled_or_stuck(pair: Pair, fleet: Fleet, tmp_path: Path) -> None:
    """Upgrade, and back: old and new together, all new, together again; everybody publishes all the time."""
    agent = fresh("agent")
    clients = [client for kind in ("npm", "python") for transport in ("upgrade", "polling", "websocket")
               for client in fleet.many(pair.front, kind, transport, 3)]
    clients += [*fleet.many(pair.old, "npm", "websocket", 2), *fleet.many(pair.new, "npm", "websocket", 2)]
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    moving = [client for client in clients if client.transport() == "websocket" and "npm" in repr(client)]
    with Load(pair.new, agent, 40) as load, PreviousPublisher(pair.previous, pair.valkey.url, agent,
                                                              tmp_path / "ids") as before:
        move(moving)
        replace(pair.old, ROOT)
        move(moving)
        replace(pair.new, pair.previous)
        move(moving)
    last = publish(pair.old, agent, 2)
    recorded = pair.recorded(agent)
    assert sorted(recorded) == sorted([*load.ids, *before.ids, *last]), "each was recorded once"
    for client in clients:
        client.wait_ids(recorded, timeout=120)
        assert all(session["recovered"] for session in client.sessions[1:]), client.sessions


def test_a_poll_goes_from_one_release_to_the_other(pair: Pair, fleet: Fleet) -> None:
    """Forwarding: the balancer gives every second request to the other release."""
    agent = fresh("agent")
    clients = [*fleet.many(pair.front, "npm", "polling", 6), *fleet.many(pair.front, "python", "polling", 6)]
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    ids = publish(pair.new, agent, 20)
    for client in clients:
        client.wait_ids(ids)
        assert not client.all("disconnect") and not client.all("connect_error")


def test_critical_events_and_operations_cross(pair: Pair, fleet: Fleet) -> None:
    """Kept by one release and acknowledged at the other; each asks the other's workers over control messages."""
    agent = fresh("agent")
    there = fleet.npm(pair.old)
    there.subscribe("agent", agent)
    id = pair.new.emitter.broadcast_agent_thought({"agentId": agent, "thought": "c"}, critical=True).id
    there.wait_ids([id])
    assert there.request("ack-event", {"id": id})["ok"] is True
    for server in (pair.old, pair.new):
        lines = server.get("/metrics").text.splitlines()
        answered = [line for line in lines if line.startswith("wsapp_connections{")]
        assert len(answered) == 4, "both workers of both releases answered"
