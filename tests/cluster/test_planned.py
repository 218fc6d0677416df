"""The tests that the original server planned, by name.  The four of performance are in benchmarks/."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.clients.fleet import Fleet, fresh, publish, thoughts
from tests.harness import Server, wait_until
from tests.valkey import Valkey

pytestmark = [pytest.mark.cluster, pytest.mark.node]


def test_initialise_with_redis(cluster: Server) -> None:
    assert cluster.ready()
    assert cluster.get("/healthz").status == 200
    assert len(cluster.worker_pids()) == 2


def test_several_instances_share_state(fleet: Fleet) -> None:
    """A session begun on one server goes on at another, and both count the same cluster."""
    agent = fresh("agent")
    with Valkey() as valkey, Server(1, valkey.url, app="tests.apps.host:app") as here, \
            Server(1, valkey.url, app="tests.apps.host:app") as there:
        watcher = fleet.python(here)
        watcher.subscribe("agent", agent)
        session = watcher.wait_session()["sessionId"]
        watcher.close()
        missed = publish(here, agent, 5)
        again = fleet.python(there, auth={"sessionId": session})
        told = again.wait_session()
        assert (told["sessionId"], told["recovered"], told["missed"]) == (session, True, 5)
        again.wait_ids(missed)


def test_redis_failure_handled(fleet: Fleet) -> None:
    """Redis away: connections stay, local watchers are served, readiness says so; after its return all is told."""
    agent = fresh("agent")
    with Valkey() as valkey, Server(1, valkey.url, app="tests.apps.host:app") as server:
        watcher = fleet.npm(server)
        watcher.subscribe("agent", agent)
        valkey.kill()
        receipt = server.post("/publish", {"thought": {"agentId": agent, "thought": "thought alone"}}).json()
        assert receipt["status"] in ("queued", "local_only")
        watcher.wait(lambda: "thought alone" in [item["thought"] for item in watcher.items()], "the local thought")
        wait_until(lambda: not server.ready(), "not ready without Redis")
        valkey.restart()
        wait_until(server.ready, "ready again")
        server.post("/publish", {"thought": {"agentId": agent, "thought": "thought after"}})
        watcher.wait(lambda: "thought after" in thoughts(watcher, agent), "the thought after")
        assert thoughts(watcher, agent) == ["thought alone", "thought after"]
        assert not watcher.all("disconnect")


def test_broadcast_to_agent_room(cluster: Server, fleet: Fleet) -> None:
    agent, other = fresh("agent"), fresh("agent")
    watcher, stranger = fleet.npm(cluster), fleet.python(cluster)
    watcher.subscribe("agent", agent)
    stranger.subscribe("agent", other)
    ids = publish(cluster, agent, 3)
    end = publish(cluster, other, 1)
    watcher.wait_ids(ids)
    stranger.wait_ids(end)
    assert stranger.ids() == end
    assert thoughts(watcher, agent) == ["thought 0", "thought 1", "thought 2"]
    assert [item["seq"] for item in watcher.items()] == [1, 2, 3]


def test_broadcast_to_project_room(cluster: Server, fleet: Fleet) -> None:
    project, task = fresh("project"), fresh("task")
    clients = [fleet.npm(cluster), fleet.python(cluster)]
    for client in clients:
        client.subscribe("project", project)
    cluster.emitter.broadcast_project_event(project, "build-finished", {"ok": True})
    cluster.emitter.broadcast_task_update({"taskId": task, "status": "in_progress", "progress": 40},
                                          also_to=[f"project:{project}"])
    for client in clients:
        client.wait_for("task-update")
        [build] = client.all("build-finished")
        assert build.args[0]["ok"] is True
        [update] = client.items("task-update")
        assert (update["taskId"], update["status"], update["progress"]) == (task, "in_progress", 40)


def test_broadcast_across_servers(fleet: Fleet) -> None:
    """What one server's app publishes, watchers on every server see."""
    agent = fresh("agent")
    with Valkey() as valkey, Server(1, valkey.url, app="tests.apps.host:app") as here, \
            Server(1, valkey.url, app="tests.apps.host:app") as there:
        clients = [fleet.npm(here), fleet.npm(there), fleet.python(there)]
        for client in clients:
            client.subscribe("agent", agent)
        ids = [server.post("/publish", {"thought": {"agentId": agent, "thought": str(number)}}).json()["id"]
               for number, server in enumerate([here, there, here, there])]
        for client in clients:
            client.wait_ids(ids)
            assert client.ids() == ids


def test_broadcast_throttled_to_ten_per_second(cluster: Server, fleet: Fleet) -> None:
    """A flood reaches each watcher whole and in order, but in at most `burst + rate * time` frames."""
    agent = fresh("agent")
    clients = [fleet.npm(cluster), fleet.python(cluster)]
    for client in clients:
        client.subscribe("agent", agent)
    ids: list[str] = []
    for start in range(0, 400, 20):
        ids += publish(cluster, agent, 20, start)
    for client in clients:
        client.wait_ids(ids)
        frames = client.all("agent-thought")
        assert any(isinstance(frame.args[0], list) for frame in frames), "a flood arrives in batches"
        lasted = frames[-1].at - frames[0].at
        assert len(frames) <= 10 + 10 * lasted + 2
        assert client.ids() == ids


def test_connection(cluster: Server, fleet: Fleet) -> None:
    for client in (fleet.npm(cluster), fleet.python(cluster)):
        session = client.wait_session()
        assert session["recovered"] is False
        assert session["missed"] == 0
        assert len(session["sessionId"]) >= 16
        assert [seen.event for seen in client.seen[:2]] == ["connect", "session"], "nothing goes out before CONNECT"
    assert fleet.npm(cluster).wait_session()["sessionId"] != session["sessionId"]


def test_disconnection(host: Server, fleet: Fleet) -> None:
    before = host.get("/state").json()["connections"]
    clients = [fleet.npm(host), fleet.python(host), fleet.npm(host, "polling"), fleet.python(host, "polling")]
    wait_until(lambda: host.get("/state").json()["connections"] == before + 4, "four connections counted")
    for client in clients:
        client.close()
    wait_until(lambda: host.get("/state").json()["connections"] == before, "four connections gone")


def test_state_reconciled_on_reconnect(cluster: Server, fleet: Fleet) -> None:
    """Rooms come back without a word from the app, in all three kinds, with what was missed in each."""
    ids = {kind: uuid4().hex for kind in ("agent", "task", "project")}
    for client in (fleet.npm(cluster), fleet.python(cluster)):
        for kind, id in ids.items():
            client.subscribe(kind, id)
        assert client.request("update-metadata", {"page": "board"})["ok"] is True
        session = client.wait_session()["sessionId"]
        client.drop()
        cluster.emitter.broadcast_agent_thought({"agentId": ids["agent"], "thought": "while away"})
        cluster.emitter.broadcast_task_update({"taskId": ids["task"], "status": "completed"})
        cluster.emitter.broadcast_project_event(ids["project"], "moved", {"to": "done"})
        told = client.wait_session(2)
        assert (told["sessionId"], told["recovered"]) == (session, True)
        for event in ("agent-thought", "task-update", "moved"):
            client.wait_for(event)
        publish(cluster, ids["agent"], 1)
        client.wait(lambda: "thought 0" in thoughts(client, ids["agent"]), "live again")  # noqa: B023
        client.close()


def test_hundred_concurrent_connections(cluster: Server, fleet: Fleet) -> None:
    agent = fresh("agent")
    clients = [*fleet.many(cluster, "npm", "websocket", 80), *fleet.many(cluster, "python", "websocket", 40)]
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    ids = publish(cluster, agent, 3)
    for client in clients:
        client.wait_ids(ids)
        assert client.ids() == ids
    assert not [client for client in clients if client.all("disconnect")]
