"""Workers that are stopped, killed and started again, and clients that change workers meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.clients.fleet import Fleet, fresh, publish, spread
from tests.clients.raw_client import RawSocket
from tests.clients.recorder import Recorder
from tests.fault.load import Load, account
from tests.harness import Server, http, wait_until
from wsapp.core.room_log import MAX_ITEMS

pytestmark = [pytest.mark.cluster, pytest.mark.node]

DRAIN = 4.0


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """SIGSTOP, so that the other workers take what comes, and SIGCONT."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_sigterm_tells_everybody_and_they_come_back(fleet: Fleet) -> None:
    agent = fresh("agent")
    with Server(2, env={"WSAPP_DRAIN_TIMEOUT": str(DRAIN)}) as server:
        clients = [*fleet.many(server, "npm", "websocket", 20), *fleet.many(server, "python", "websocket", 10),
                   *fleet.many(server, "npm", "polling", 4)]
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        raw = RawSocket(server)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        [told] = raw.event("server-shutdown")
        assert raw.close_code() == 1012
        raw.close()
        code = server.process.wait(60)
        lasted = time.monotonic() - began
        assert code == 0
        assert lasted < DRAIN + 5, "long before gunicorn's kill, 7 s after the drain"
        assert isinstance(told["retryAfterMs"], int)
        assert told["retryAfterMs"] >= 0
        for client in clients:
            [shutdown] = client.wait_for("server-shutdown")
            assert shutdown.args[0]["retryAfterMs"] >= 0
        for client in clients[:20]:
            assert client.wait_drop().args == ("transport close", 1012)
        server.start()
        for client in clients:
            assert client.wait_session(2, 60)["recovered"] is True
        ids = publish(server, agent, 3)
        for client in clients:
            client.wait_ids(ids)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_between_two_polls(workers: int) -> None:
    """A polling client whose next GET comes on a new connection, after the signal, is told all the same; a new client
    is turned away; and the port is closed at the end."""
    with Server(workers, env={"WSAPP_DRAIN_TIMEOUT": str(DRAIN)}) as server:
        door = f"{server.url}/socket.io/?EIO=4&transport=polling"
        ours = f"{door}&sid={json.loads(http(door).body[1:])['sid']}"
        http(ours, b"40")
        assert "session" in http(ours).body.decode()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: http(server.url + "/readyz").status == 503, "draining")
        refused = http(door)
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert "server-shutdown" in http(ours).body.decode()
        ended = http(ours)
        assert (ended.status, ended.json()["code"]) == (400, 1), "every client comes back after it"
        assert server.process.wait(60) == 0
        with pytest.raises(OSError):
            http(server.url + "/readyz")


def test_killed_worker_loses_nothing(fleet: Fleet) -> None:
    """kill -9 in the middle of a stream: its clients come back, and after dedupe by id nothing is missing."""
    agent = fresh("agent")
    with Server(2, env={"MAX_EVENTS_PER_SEC": "500", "WSAPP_CATCH_UP_LIMIT": "0"}) as server:
        clients = [*fleet.many(server, "npm", "websocket", 20), *fleet.many(server, "python", "websocket", 10)]
        fleet.each(clients, lambda client: client.subscribe("agent", agent))
        held = spread(clients, server)
        assert len(held) == 2, f"both workers hold clients: {held}"
        victim = clients[0]
        with Load(server, agent, per_second=500) as load:
            load.more(200)
            server.kill_worker(server.worker_of(victim.local_port()) or 0)
            load.more(500)
        account(clients, load)
        assert victim.wait_session(2)["recovered"] is True
        wait_until(lambda: len(server.worker_pids()) == 2, "gunicorn replaced the worker")


@pytest.mark.parametrize("kind", ["npm", "python"])
def test_a_lost_client_goes_on_at_the_other_worker(cluster: Server, fleet: Fleet, kind: str) -> None:
    """npm by `pid`, python by `auth.sessionId`; the frozen first worker ends its connection late (fencing)."""
    agent = fresh("agent")
    client = fleet.open(cluster, kind)
    client.subscribe("agent", agent)
    seen = publish(cluster, agent, 3)
    client.wait_ids(seen)
    first = cluster.worker_of(client.local_port())
    assert first is not None
    with frozen(first):
        client.drop()
        client.wait_drop()
        missed = publish(cluster, agent, 25, 3)
        assert client.wait_session(2)["recovered"] is True
        client.wait_ids(seen + missed)
        assert cluster.worker_of(client.local_port()) not in (first, None)
    after = publish(cluster, agent, 5, 28)
    client.wait_ids(seen + missed + after)
    client.drop()
    last = publish(cluster, agent, 5, 33)
    told = client.wait_session(3)
    assert told["recovered"] is True, "the late disconnect of the first connection changed nothing"
    client.wait_ids(seen + missed + after + last)
    assert client.ids() == seen + missed + after + last


def test_a_client_away_for_a_while_gets_all(cluster: Server, fleet: Fleet) -> None:
    """It stays away until the server has noticed, then comes back with its pid."""
    agent = fresh("agent")
    client = fleet.npm(cluster)
    client.subscribe("agent", agent)
    client.leave()
    client.wait_drop()
    missed = publish(cluster, agent, 60)
    client.connect()
    told = client.wait_session(2)
    assert (told["recovered"], told["missed"]) == (True, 60)
    client.wait_ids(missed)
    assert client.ids() == missed


def test_trimmed_history_is_told(fleet: Fleet) -> None:
    """Recovery is never partial: with a hole it says how many are missing and why, and goes on live."""
    agent = fresh("agent")
    with Server(2, env={"WSAPP_HISTORY_SIZE": "10"}) as server:
        plain, sdk = fleet.npm(server), fleet.npm(server, auth={"wsapp": 1})
        for client in (plain, sdk):
            client.subscribe("agent", agent)
            client.leave()
            client.wait_drop()
        count = MAX_ITEMS + 100  # more than the log of a worker that still follows the room
        publish(server, agent, count)
        for client in (plain, sdk):
            client.connect()
            told = client.wait_session(2)
            assert told["recovered"] is False
            assert told["missed"] >= count, "what was sent but not yet proven to have arrived counts too"
            assert told["reason"]
            client.subscribe("agent", agent)
            client.wait_ids(publish(server, agent, 1, count))
        assert plain.recovered == sdk.recovered == [False, False]


def test_expired_session_starts_anew(fleet: Fleet) -> None:
    with Server(1, env={"WSAPP_SESSION_TTL": "0.5"}) as server:
        client = fleet.npm(server)
        client.subscribe("agent", "a")
        client.leave()
        client.wait_drop()
        time.sleep(1.5)  # the time to live itself is what is tested
        client.connect()
        told = client.wait_session(2)
        assert told["recovered"] is False
        assert told["reason"]


def test_two_tabs_of_one_session_are_fenced(cluster: Server, fleet: Fleet) -> None:
    """A copied session id: the newer connection owns the state, the end of the older one takes nothing from it."""
    agent = fresh("agent")
    older = fleet.python(cluster, reconnection=False)
    older.subscribe("agent", agent)
    session = older.wait_session()["sessionId"]
    newer = fleet.python(cluster, auth={"sessionId": session})
    assert newer.wait_session()["recovered"] is True
    older.close()
    ids = publish(cluster, agent, 3)
    newer.wait_ids(ids)
    newer.drop()
    missed = publish(cluster, agent, 3, 3)
    assert newer.wait_session(2)["recovered"] is True
    newer.wait_ids(ids + missed)
    assert newer.ids() == ids + missed


def test_a_silent_watcher_is_not_stale(fleet: Fleet) -> None:
    """It only answers PINGs for many times the stale limit."""
    agent = fresh("agent")
    env = {"PING_INTERVAL": "200", "PING_TIMEOUT": "5000", "WSAPP_STALE_AFTER": "1", "WSAPP_ACTIVE_WITHIN": "1",
           "WSAPP_SWEEP_INTERVAL": "0.1"}
    with Server(1, env=env) as server:
        clients: list[Recorder] = [fleet.npm(server), fleet.python(server), fleet.npm(server, "polling")]
        for client in clients:
            client.subscribe("agent", agent)
        time.sleep(4)  # silence itself is what is tested
        ids = publish(server, agent, 1)
        for client in clients:
            client.wait_ids(ids)
            assert not client.all("disconnect")
