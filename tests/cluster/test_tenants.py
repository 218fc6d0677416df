"""Members of one project learn nothing about another's rooms: not from what is refused, nor from how long it takes, on
two workers."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.fleet import Fleet, fresh
from tests.clients.raw_client import RawSocket
from tests.clients.recorder import Recorder
from tests.harness import Server, http, wait_until
from tests.tokens import GUARDED, mint

pytestmark = [pytest.mark.cluster, pytest.mark.node]

ROUNDS = 150


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """One server of two tenants: each has `project:<name>-*` and may do everything there."""
    with Server(2, app="tests.apps.guarded:app", env=GUARDED) as server:
        yield server


def of_tenant(name: str, user: str = "") -> dict[str, Any]:
    return {"token": mint(user or fresh(name), rooms={f"project:{name}-*": ["read", "presence", "publish"]})}


def busy_room(server: Server, fleet: Fleet) -> tuple[str, str, Recorder]:
    """A project of the other tenant with members, presence, a history and a critical event: its id, the event's."""
    project = fresh("globex")
    owner = fleet.npm(server, auth=of_tenant("globex"))
    assert owner.request("subscribe-project", {"id": project, "presence": True})["ok"]
    for number in range(300):
        server.emitter.broadcast_project_event(project, "moved", {"n": number, "text": "x" * 500})
    critical = server.emitter.broadcast_project_event(project, "deployed", {}, critical=True).id
    owner.wait_for("deployed")
    return project, critical, owner


def asked_of(project: str) -> list[tuple[str, Any]]:
    """Every request that names a room."""
    return [("subscribe-project", project), ("subscribe-project", {"id": project, "since": 0}),
            ("subscribe-project", {"id": project, "since": {"epoch": "x", "seq": 7}}),
            ("subscribe-project", {"id": project, "presence": True}), ("history", {"room": f"project:{project}"}),
            ("history", {"room": f"project:{project}", "before": 5, "limit": 1}), ("unsubscribe-project", project)]


def without(told: Any, name: str) -> Any:
    """An answer with the asked name taken out."""
    return json.loads(json.dumps(told).replace(name, "X"))


def test_what_exists_and_what_does_not_are_refused_alike(shared: Server, fleet: Fleet) -> None:
    there, critical, _ = busy_room(shared, fleet)
    nowhere = fresh("globex")
    for kind in ("npm", "python"):
        mallory = fleet.open(shared, kind, auth=of_tenant("acme", user := fresh("mallory")))
        shared.mark()
        answers = [[without(mallory.request(event, payload), name) for event, payload in asked_of(name)]
                   for name in (there, nowhere)]
        assert answers[0] == answers[1]
        assert {answer["error"]["code"] for answer in answers[0]} == {"forbidden", "not_subscribed"}
        lines = [line for line in shared.log_tail(200).splitlines() if "denied:" in line and repr(user) in line]
        assert len(lines) == 10, "a line for each denial (who, what, where and why), of one user ten at a time"
        assert all("action=read" in line and "room='project:globex" in line and ": not granted" in line
                   for line in lines)
        for verb in ("ack-event", "nack-event"):
            told = [without(mallory.request(verb, id), id) for id in (critical, "0000000000000")]
            assert told[0] == told[1]
            assert told[0]["error"]["code"] == "not_found"
    assert all(at["state"] == "pending" for at in shared.emitter.delivery_status(critical)["users"].values())


def test_nor_by_streams_or_the_server_api(shared: Server, fleet: Fleet) -> None:
    there, _, _ = busy_room(shared, fleet)
    bearer = {"Authorization": f"Bearer {of_tenant('acme')['token']}"}
    for path in ("stream?rooms=project:{}", "stream?rooms=project:{}&since=project:{}:1", "rooms/project:{}/history",
                 "stream?rooms=project:{}&presence=true", "rooms/project:{}/presence", "rooms"):
        nowhere = fresh("globex")
        told = [http(f"{shared.url}/api/v1/{path.replace('{}', name)}", headers=bearer) for name in (there, nowhere)]
        assert told[0].status == told[1].status in (401, 403)
        assert without(told[0].json(), there) == without(told[1].json(), nowhere)
        assert set(told[0].headers) == set(told[1].headers)


def test_nor_by_coming_back_with_somebody_elses_positions(shared: Server, fleet: Fleet) -> None:
    there, _, owner = busy_room(shared, fleet)
    stolen = owner.wait_session()["sessionId"]
    told = []
    for room, session in ((f"project:{there}", stolen), (f"project:{fresh('globex')}", "x" * len(stolen))):
        auth = {**of_tenant("acme"), "sessionId": session, "positions": {room: {"epoch": "x", "seq": 1}}}
        with RawSocket(shared, auth) as raw:
            told.append(raw.event("session")[0])
    assert [one["recovered"] for one in told] == [False, False]
    assert all("rooms" not in one for one in told)
    assert not owner.all("disconnect")


def test_nor_by_how_long_a_refusal_takes(shared: Server, fleet: Fleet) -> None:
    """Nothing is looked up before the right is: shown by the ratio of medians, asked in turns."""
    there, _, _ = busy_room(shared, fleet)
    with RawSocket(shared, of_tenant("acme")) as raw:
        took: dict[str, list[float]] = {there: [], fresh("globex"): []}
        for turn in range(ROUNDS):
            for name in sorted(took, reverse=bool(turn % 2)):  # who comes after a pause is slower for that alone
                began = time.perf_counter()
                raw.request(json.dumps(["history", {"room": f"project:{name}"}]))
                took[name].append(time.perf_counter() - began)
            time.sleep(0.001)
    one, other = (statistics.median(times) for times in took.values())
    assert 1 / 1.5 < one / other < 1.5


def test_nor_by_what_happens_while_redis_is_away(fleet: Fleet) -> None:
    """A refusal needs no Redis, so what is in it cannot show."""
    with Server(1, app="tests.apps.guarded:app", env=GUARDED) as server:
        there, _, owner = busy_room(server, fleet)
        mallory = fleet.npm(server, auth=of_tenant("acme"))
        assert server.valkey is not None
        server.valkey.kill()
        owner.wait_for("mode")
        for name in (there, fresh("globex")):
            codes = [mallory.request(event, payload)["error"]["code"] for event, payload in asked_of(name)]
            assert codes == ["forbidden"] * 6 + ["not_subscribed"]
        own = wait_until(lambda: mallory.request("subscribe-project", {"id": "acme-1", "since": 0}), "an answer")
        assert own["ok"] or own["error"]["code"] == "broker_unavailable"
