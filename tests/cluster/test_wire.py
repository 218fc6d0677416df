"""What goes over the wire: the payloads of the three profiles, the acks of good and bad requests, the page's routes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.fleet import Fleet, fresh, publish
from tests.clients.node_client import Node
from tests.clients.raw_client import RawSocket
from tests.clients.recorder import Recorder
from tests.cluster.bystander import flat
from tests.harness import Server
from wsapp.errors import PayloadError

pytestmark = [pytest.mark.cluster, pytest.mark.node]


def one_thought(server: Server, client: Recorder, **thought: Any) -> tuple[Any, ...]:
    """Subscribe, publish one, and its arguments as they came."""
    agent = fresh("agent")
    client.subscribe("agent", agent)
    server.emitter.broadcast_agent_thought({"agentId": agent, "thought": "why not", **thought})
    return client.wait_for("agent-thought")[0].args


@pytest.mark.parametrize("kind", ["npm", "python"])
def test_plain_profile(cluster: Server, fleet: Fleet, kind: str) -> None:
    before = time.time() * 1000 - 1000
    [data] = one_thought(cluster, fleet.open(cluster, kind), taskId="t1", colour="red")
    assert set(data) == {"agentId", "thought", "timestamp", "taskId", "colour", "id", "seq"}
    assert (data["thought"], data["taskId"], data["colour"], data["seq"]) == ("why not", "t1", "red", 1)
    assert isinstance(data["timestamp"], int)
    assert before < data["timestamp"] < time.time() * 1000 + 1000


@pytest.mark.parametrize("kind", ["npm", "python"])
def test_sdk_profile(cluster: Server, fleet: Fleet, kind: str) -> None:
    client = fleet.open(cluster, kind, auth={"wsapp": 1})
    data, meta = one_thought(cluster, client, timestamp=1234)
    assert data["timestamp"] == 1234
    assert meta["id"] == data["id"]
    assert meta["rooms"] == {f"agent:{data['agentId']}": 1}
    assert isinstance(meta["ts"], int)
    assert meta["epoch"]


def test_sdk_profile_of_an_event_in_two_rooms(cluster: Server, fleet: Fleet) -> None:
    """Sent once to a client that is in both, with its place in each."""
    agent, project = fresh("agent"), fresh("project")
    client = fleet.npm(cluster, auth={"wsapp": 1})
    client.subscribe("agent", agent)
    client.subscribe("project", project)
    rooms = [f"project:{project}"]
    first = cluster.emitter.broadcast_agent_thought({"agentId": agent, "thought": "1"}, also_to=rooms)
    second = cluster.emitter.broadcast_agent_thought({"agentId": agent, "thought": "2"}, also_to=rooms)
    client.wait_ids([first.id, second.id])
    metas = [seen.args[1] for seen in client.wait_for("agent-thought")]
    assert [meta["rooms"] for meta in metas] == [{f"agent:{agent}": n, f"project:{project}": n} for n in (1, 2)]


def test_a_stock_client_is_recovered_without_code(cluster: Server, fleet: Fleet) -> None:
    """`pid` and the proof of a PONG: `socket.recovered` after the return, and what was missed in order."""
    client = fleet.npm(cluster)
    data, *_ = one_thought(cluster, client)
    client.leave()
    client.wait_drop()
    missed = publish(cluster, data["agentId"], 5)
    client.connect()
    client.wait_ids([data["id"], *missed])
    assert client.recovered == [False, True]
    assert list(dict.fromkeys(client.ids())) == [data["id"], *missed]


def test_task_update_and_project_event(cluster: Server, fleet: Fleet) -> None:
    task, project = fresh("task"), fresh("project")
    client = fleet.npm(cluster)
    client.subscribe("task", task)
    client.subscribe("project", project)
    cluster.emitter.broadcast_task_update({"taskId": task, "status": "in_progress", "progress": 12.5, "message": "m"})
    cluster.emitter.broadcast_project_event(project, "text", "only a string")
    cluster.emitter.broadcast_project_event(project, "list", [1, {"a": None}])
    client.wait_for("list")
    [update] = client.items("task-update")
    assert set(update) == {"taskId", "status", "progress", "message", "timestamp", "id", "seq"}
    assert [seen.args for seen in client.all("text")] == [("only a string",)]
    assert [seen.args for seen in client.all("list")] == [([1, {"a": None}],)]


def test_subscribe_ack_and_unsubscribe(cluster: Server, fleet: Fleet) -> None:
    agent = fresh("agent")
    publish(cluster, agent, 2)
    client = fleet.npm(cluster)
    ack = client.subscribe("agent", agent)
    assert (ack["room"], ack["seq"]) == (f"agent:{agent}", 2)
    assert isinstance(ack["epoch"], str)
    live = publish(cluster, agent, 1, 2)
    client.wait_ids(live)
    assert client.request("unsubscribe-agent", agent)["ok"] is True
    publish(cluster, agent, 1, 3)
    other = fresh("agent")
    client.subscribe("agent", other)
    client.wait_ids(publish(cluster, other, 1))
    assert [item["agentId"] for item in client.items()] == [agent, other]


def test_subscribe_since_replays(cluster: Server, fleet: Fleet) -> None:
    agent = fresh("agent")
    ids = publish(cluster, agent, 6)
    client = fleet.npm(cluster)
    client.subscribe("agent", agent, since=2)
    client.wait_ids(ids[2:])
    assert client.ids() == ids[2:]


def test_history_pages(cluster: Server, fleet: Fleet) -> None:
    agent = fresh("agent")
    publish(cluster, agent, 6)
    client = fleet.npm(cluster)
    client.subscribe("agent", agent)
    ack = client.request("history", {"room": f"agent:{agent}", "since": 1, "limit": 3})
    assert ack["ok"] is True, ack


@pytest.fixture(scope="module")
def pair(cluster: Server, node: Node) -> Iterator[tuple[Recorder, Recorder]]:
    """A client that misbehaves and one that must not notice."""
    with Fleet(node) as clients:
        offender, bystander = clients.npm(cluster), clients.npm(cluster)
        bystander.subscribe("agent", "bystander")
        with flat(cluster, 40e6):
            yield offender, bystander


@pytest.fixture(scope="module")
def offender(pair: tuple[Recorder, Recorder]) -> Recorder:
    return pair[0]


@pytest.fixture(scope="module")
def bystander(pair: tuple[Recorder, Recorder]) -> Recorder:
    return pair[1]


BAD: list[tuple[str, Any, str]] = [
    ("subscribe-agent", None, "id"), ("subscribe-agent", "", "id"), ("subscribe-agent", [], "1 to 100 items"),
    ("subscribe-agent", {}, "id"), ("subscribe-agent", {"id": {}}, "id"), ("subscribe-agent", "x" * 5000, "id"),
    ("subscribe-agent", "a\nb", "id"), ("subscribe-agent", True, "id"),
    ("subscribe-task", {"id": "t", "since": "soon"}, "since"), ("subscribe-task", {"id": "t", "since": -1}, "since"),
    ("subscribe-project", {"id": "p", "other": 1}, "other"), ("unsubscribe-agent", {"id": 1.5}, "id"),
    ("update-metadata", "text", "object"), ("update-metadata", {"big": "x" * 20_000}, "bytes"),
    ("set-rate", {"rate": "fast"}, "rate"), ("set-rate", {"rate": 0}, "rate"), ("set-rate", 5, "object"),
    ("history", {"room": "nowhere"}, "room"), ("history", {"room": "agent:a", "limit": 0}, "limit"),
]


@pytest.mark.parametrize(("event", "payload", "word"), BAD)
def test_bad_payloads_get_precise_answers(cluster: Server, offender: Recorder, bystander: Recorder, event: str,
                                          payload: Any, word: str) -> None:
    ack = offender.request(event, payload)
    assert ack["ok"] is False
    assert ack["error"]["code"] == "bad_payload"
    assert ack["error"]["retryable"] is False
    assert word in ack["error"]["message"] + str(ack["error"].get("fields")), ack
    undisturbed(cluster, offender, bystander)


@pytest.mark.parametrize("text", ['["connect"]', '["disconnect"]', '["session",{"sessionId":"x"}]', '["resync",{}]',
                                  '["server-shutdown",{}]', '["connect_error","x"]', '["newListener"]'])
def test_reserved_event_names_are_refused(cluster: Server, offender: Recorder, bystander: Recorder,
                                          text: str) -> None:
    with RawSocket(cluster) as raw:
        ack = raw.request(text)
        assert ack["ok"] is False
        assert ack["error"]["code"] == "reserved_event"
        assert raw.request('["subscribe-agent","a"]')["ok"] is True, "the connection lives on"
    undisturbed(cluster, offender, bystander)


def test_unknown_events_are_told(cluster: Server, offender: Recorder, bystander: Recorder) -> None:
    assert offender.request("no-such-event", {"a": 1})["error"]["code"] == "unknown_event"
    undisturbed(cluster, offender, bystander)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_json_is_refused_from_clients(cluster: Server, offender: Recorder, bystander: Recorder,
                                                  number: str) -> None:
    """Refused as one request, or with the connection: never taken."""
    with RawSocket(cluster) as raw:
        try:
            ack = raw.request(f'["update-metadata",{{"x":{number}}}]')
        except AssertionError as closed:
            assert "closed with 10" in str(closed)  # noqa: PT017
        else:
            assert ack["ok"] is False
    undisturbed(cluster, offender, bystander)


def test_what_is_not_json_is_refused_from_publishers(cluster: Server) -> None:
    for bad in (math.nan, math.inf, object()):
        with pytest.raises(PayloadError, match="JSON"):
            cluster.emitter.broadcast_project_event("p", "numbers", {"x": bad})
    with pytest.raises(PayloadError, match="progress"):
        cluster.emitter.broadcast_task_update({"taskId": "t", "status": "pending", "progress": 101})
    with pytest.raises(PayloadError, match="reserved"):
        cluster.emitter.broadcast_project_event("p", "disconnect", {})


def undisturbed(server: Server, offender: Recorder, bystander: Recorder) -> None:
    """Both are still there and the bystander gets what is published."""
    bystander.wait_ids(publish(server, "bystander", 1))
    assert not bystander.all("disconnect")
    assert not offender.all("disconnect")
