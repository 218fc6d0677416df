"""Redis takes a publish and its answer is lost: the event has one id, everywhere and always."""

from __future__ import annotations

import json

import pytest

from tests.clients.fleet import fresh
from tests.clients.raw_client import RawSocket
from tests.fault.machine.proxy import Proxy
from tests.harness import Server, wait_until
from tests.valkey import Valkey

pytestmark = [pytest.mark.cluster]

ENV = {"WSAPP_CANARY": "0", "WSAPP_HEADS_INTERVAL": "0.2", "PING_INTERVAL": "60000"}


def test_what_was_served_before_it_was_recorded_is_replayed_under_its_id() -> None:
    agent = fresh("agent")
    room = f"agent:{agent}"
    with Valkey() as valkey, Proxy(valkey.port) as proxy, Server(1, proxy.url, ENV, "tests.apps.host:app") as server:
        with RawSocket(server) as client:
            assert client.request(json.dumps(["subscribe-agent", agent]))["ok"]
            proxy.weather.deaf_down = True
            receipt = server.post("/publish", {"thought": {"agentId": agent, "thought": "x"}}).json()
            assert receipt["status"] == "queued"
            [seen] = client.event("agent-thought")
            assert seen["id"] == receipt["id"]
            proxy.calm()
            wait_until(server.ready, "ready again")
            session = client.told["pid"]
        with RawSocket(server) as other:
            assert other.request(json.dumps(["subscribe-agent", {"id": agent, "since": 0}]))["ok"]
            [recorded] = other.event("agent-thought")
        assert recorded["id"] == seen["id"]
        server.kill_worker(server.worker_pids()[0])
        wait_until(lambda: server.worker_pids() and server.ready(), "the worker is replaced")
        with RawSocket(server, {"sessionId": session, "wsapp": 1}) as client:
            [told] = client.event("session")
            assert (told["recovered"], told["missed"]) == (True, 1)
            data, meta = client.event("agent-thought")
            assert data["id"] == meta["id"] == seen["id"]
            [event] = client.request(json.dumps(["history", {"room": room, "since": 0}]))["events"]
            assert event["id"] == event["data"]["id"] == seen["id"]
