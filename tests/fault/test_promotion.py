"""A replica is promoted that never got the last of what had been acknowledged; no sentinel is there to tell anybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import redis

from tests.clients.fleet import Fleet, fresh, publish
from tests.clients.recorder import Recorder
from tests.fault.machine.proxy import Proxy
from tests.harness import Server, wait_until
from tests.redis_servers import AT_ONCE, follow, in_step
from tests.valkey import Valkey

pytestmark = [pytest.mark.cluster, pytest.mark.node]

QUICK = {"MAX_EVENTS_PER_SEC": "1000", "WSAPP_HEARTBEAT": "0.5"}


@dataclass
class Pair:
    """A primary, its replica behind a link that can go deaf, and the door that leads to the one of them."""

    primary: Valkey
    replica: Valkey
    link: Proxy
    door: Proxy

    def promote(self) -> None:
        """The replica is the primary from now on, and the door leads to it."""
        with redis.Redis(port=self.replica.port) as client:
            client.replicaof("NO", "ONE")
        self.primary, self.replica = self.replica, self.primary


@contextmanager
def pair() -> Iterator[Pair]:
    with Valkey(*AT_ONCE) as primary, Valkey(*AT_ONCE) as replica, Proxy(primary.port) as link:
        follow(replica, primary, link.port)
        both: Pair
        with Proxy(lambda: both.primary.port) as door:
            both = Pair(primary, replica, link, door)
            yield both


def in_rooms(fleet: Fleet, server: Server, rooms: list[str]) -> list[Recorder]:
    """Clients of every profile, in every room."""
    clients = [fleet.npm(server), fleet.npm(server, auth={"wsapp": 1}), fleet.python(server), fleet.python(server)]
    for room in rooms:
        fleet.each(clients, lambda client: client.subscribe("agent", room))  # noqa: B023 - called at once
    return clients


def resynced(client: Recorder) -> dict[str, str]:
    """Rooms by the reason of their last `resync`."""
    return {seen.args[0]["room"]: seen.args[0]["reason"] for seen in client.all("resync")}


@pytest.mark.parametrize("way", ["the old one dies", "the old one lives on as a replica"])
def test_a_lost_tail_is_told_to_everybody(fleet: Fleet, way: str) -> None:
    busy, quiet = fresh("busy"), fresh("quiet")
    rooms = {f"agent:{busy}", f"agent:{quiet}"}
    with pair() as two, Server(2, two.door.url, QUICK) as server:
        clients = in_rooms(fleet, server, [busy, quiet])
        kept = publish(server, busy, 10) + publish(server, quiet, 2)
        away = fleet.npm(server)
        position = away.subscribe("agent", busy)
        in_step(two.primary, two.replica)
        two.link.weather.deaf_down = True  # what the primary acknowledges from here on, the replica never sees
        tail = publish(server, busy, 7, 10)
        for client in clients:
            client.wait_ids(kept + tail)
        away.wait_ids(tail)
        away.leave()
        old = two.primary
        two.promote()
        if way == "the old one dies":
            old.kill()
        else:  # connections to it stay: what it answers must tell
            with redis.Redis(port=old.port) as client:
                client.replicaof("127.0.0.1", two.primary.port)
        for client in clients:
            client.wait(lambda: set(resynced(client)) >= rooms, "a resync of every room")  # noqa: B023
            assert set(resynced(client).values()) == {"epoch"}
        wait_until(server.ready, "ready again")
        after = publish(server, busy, 10, 20)
        for client in clients:
            client.wait_ids(kept + tail + after)
        away.connect()
        told = away.wait_session(2)
        assert (told["recovered"], told["reason"]) == (False, "epoch")
        late = fleet.python(server)
        answer = late.request("subscribe-agent", {"id": busy, "since": {
            "epoch": position["epoch"], "seq": position["seq"]}})
        assert (answer["recovered"], answer["reason"]) == (False, "epoch")
        assert late.ids() == []
        assert answer["epoch"] != position["epoch"]
