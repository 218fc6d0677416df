"""Who watches a room over two workers: told with the subscription, then who comes and who goes, also by kill -9."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.clients.fleet import fresh
from tests.clients.raw_client import RawSocket
from tests.harness import Server, wait_until
from tests.tokens import SECRET
from wsapp.errors import PayloadError

pytestmark = [pytest.mark.cluster]

BEAT = 0.3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(workers=2, env={"WSAPP_HEARTBEAT": str(BEAT)}) as server:
        yield server


def watch(server: Server, agent: str, presence: bool = False) -> tuple[RawSocket, Any]:
    client = RawSocket(server)
    told = client.request(json.dumps(["subscribe-agent", {"id": agent, **({"presence": True} if presence else {})}]))
    assert told["ok"], told
    return client, told


class View:
    """Members as a client knows them: the acknowledgement's, then what came."""

    def __init__(self, server: Server, agent: str) -> None:
        self.client, told = watch(server, agent, presence=True)
        self.first = told["presence"]
        self.members = set(self.first["members"])
        self.told: list[Any] = []

    def until(self, count: int) -> None:
        """Follow the events until there are so many members."""
        while len(self.members) != count:
            [event] = self.client.event("presence")
            self.told.append(event)
            assert not set(event["joined"]) & self.members, "nobody joins twice"
            assert set(event["left"]) <= self.members, "nobody leaves who was not there"
            self.members = (self.members | set(event["joined"])) - set(event["left"])
            assert event["users"] == len(self.members)


def test_members_of_both_workers_come_with_the_subscription(server: Server) -> None:
    agent = fresh("agent")
    others = [watch(server, agent)[0] for _ in range(8)]
    view = View(server, agent)
    assert (view.first["users"], view.first["connections"], len(view.members)) == (9, 9, 9)
    second = View(server, agent)
    assert second.first["users"] == 10
    view.until(10)
    for client in others:
        client.close()
    view.until(2)
    second.until(2)
    for each in (view, second):
        each.client.close()


def test_comings_are_gathered(server: Server) -> None:
    agent = fresh("agent")
    view = View(server, agent)
    others = [watch(server, agent)[0] for _ in range(30)]
    view.until(31)
    assert len(view.told) <= 30
    for client in others:
        client.close()
    view.until(1)
    view.client.close()


def test_a_user_joins_with_the_first_and_leaves_with_the_last_connection() -> None:
    with Server(2, app="tests.apps.named:app", env={"WSAPP_HEARTBEAT": str(BEAT)}) as server:
        agent = fresh("agent")

        def tab(user: str) -> RawSocket:
            client = RawSocket(server, auth={"user": user})
            assert client.request(json.dumps(["subscribe-agent", agent]))["ok"]
            return client

        tabs = [tab("ann") for _ in range(6)]
        watcher = RawSocket(server, auth={"user": "watcher"})
        told = watcher.request(json.dumps(["subscribe-agent", {"id": agent, "presence": True}]))["presence"]
        assert told == {"users": 2, "connections": 7, "members": ["ann", "watcher"]}
        for client in tabs[1:]:
            client.close()
        bob = tab("bob")
        [event] = watcher.event("presence")
        assert (event["joined"], event["left"]) == (["bob"], []), "closing some tabs is no leaving"
        tabs[0].close()
        [event] = watcher.event("presence")
        assert (event["joined"], event["left"]) == ([], ["ann"])
        bob.close()
        watcher.close()


def test_the_clients_of_a_killed_worker_vanish_within_its_lease() -> None:
    agent = fresh("agent")
    with Server(2, env={"WSAPP_HEARTBEAT": str(BEAT)}) as server:
        view = View(server, agent)
        others = [watch(server, agent)[0] for _ in range(12)]
        view.until(13)
        mine = server.worker_of(view.client._ws.sock.getsockname()[1])
        [victim] = [pid for pid in server.worker_pids() if pid != mine]
        held = [client for client in others if server.worker_of(client._ws.sock.getsockname()[1]) == victim]
        assert held
        server.kill_worker(victim)
        began = time.monotonic()
        view.until(13 - len(held))
        assert time.monotonic() - began < 20 * BEAT, "within its lease of three beats and the next look"
        for client in [*others, view.client]:
            client.close()


def test_leaving_the_room_ends_the_events(server: Server) -> None:
    agent = fresh("agent")
    view = View(server, agent)
    assert view.client.request(json.dumps(["unsubscribe-agent", agent]))["ok"]
    other, _ = watch(server, agent)
    again = View(server, agent)
    again.until(2)
    view.client.send('429["update-metadata",{}]')
    assert view.client.packet("4")[:3] == "439", "and nothing before it"
    for client in (view.client, other, again.client):
        client.close()


def test_after_redis_was_away_the_members_are_right_again() -> None:
    agent = fresh("agent")
    with Server(2, env={"WSAPP_HEARTBEAT": str(BEAT)}) as server:
        view = View(server, agent)
        others = [watch(server, agent)[0] for _ in range(5)]
        view.until(6)
        assert server.valkey is not None
        server.valkey.kill()
        wait_until(lambda: not server.ready(), "not ready without Redis")
        others.pop().close()
        server.valkey.restart()
        wait_until(server.ready, "ready again")
        view.until(5)
        wait_until(lambda: View(server, agent).first["users"] >= 5, "told anew")


def test_publishers_can_ask_whether_anybody_watches(server: Server) -> None:
    agent = fresh("agent")
    room = f"agent:{agent}"
    assert not server.emitter.watchers(room)
    clients = [watch(server, agent)[0] for _ in range(5)]
    assert server.emitter.watchers(room), "at once, though the count comes with the beat"
    wait_until(lambda: server.emitter.watchers(room).connections == 5, "all five counted")
    for client in clients:
        client.close()
    wait_until(lambda: not server.emitter.watchers(room), "nobody any more")
    with pytest.raises(PayloadError):
        server.emitter.watchers("nowhere")


def test_who_may_read_may_not_always_see_who_is_there() -> None:
    secret = SECRET
    claims = {"sub": "ann", "exp": time.time() + 3600, "rooms": ["agent:*"]}
    with Server(1, env={"WSAPP_JWT_SECRET": secret}) as server:
        client = RawSocket(server, auth={"token": jwt.encode(claims, secret)})
        assert client.request('["subscribe-agent","a"]')["ok"]
        refused = client.request('["subscribe-agent",{"id":"a","presence":true}]')
        assert refused["error"]["code"] == "forbidden"
        client.close()
