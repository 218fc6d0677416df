"""Deliveries and dead letters, on the memory backend."""

from __future__ import annotations

from typing import Any

import pytest

from tests.blueprints.api.client import ApiClient
from tests.blueprints.conftest import Place
from wsapp.core.ports import Retry


def publish(place: Place, project: str = "p") -> str:
    return place.server.broadcast_project_event(project, "deployed", {"n": 1}, critical=True).id


def buried(place: Place, users: int = 1) -> tuple[str, list[str]]:
    """A critical event that died for several users."""
    clients = [place.client() for _ in range(users)]
    for client in clients:
        assert client.ask("subscribe-project", "p")["ok"]
    id = publish(place)
    for client in clients:
        client.until('42["deployed"')
    names = list(place.server.delivery_status(id)["users"])
    for user in names:
        place.server.critical_store.retry([Retry(user, id, 0.0, 0)])
    return id, sorted(names)


def test_a_delivery_is_told_before_and_after(place: Place) -> None:
    api, client = ApiClient(place, "publish"), place.client()
    assert client.ask("subscribe-project", "p")["ok"]
    id = publish(place)
    client.until('42["deployed"')
    [user] = [session.user_id for session in place.server.connections.sessions()]
    pending = {"userId": user, "state": "pending", "attempts": 1}
    assert api.get(f"/deliveries/{id}").get_json() == {"id": id, "state": "pending", "users": [pending]}
    assert api.get(f"/deliveries/{id}?user=nobody").get_json()["state"] == "unknown"
    assert client.ask("ack-event", id)["ok"]
    told = api.get(f"/deliveries/{id}?wait=10&user={user}").get_json()
    assert told == {"id": id, "state": "acked", "users": [{**pending, "state": "acked"}]}
    assert api.get("/deliveries/nothing").get_json() == {"id": "nothing", "state": "unknown", "users": []}
    assert api.get(f"/deliveries/{id}?wait=31").status_code == 422
    assert ApiClient(place, "admin").get(f"/deliveries/{id}").status_code == 403


def test_dead_letters_in_pages(place: Place) -> None:
    api = ApiClient(place)
    id, users = buried(place, 5)
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        asked = {"limit": 2, **({"after": after} if after else {})}
        page = api.send("GET", "/dead-letters", query_string=asked).get_json()
        seen += [letter["userId"] for letter in page["deadLetters"]]
        after = page["next"]
    assert seen == users
    [letter] = api.get("/dead-letters?limit=1").get_json()["deadLetters"]
    assert (letter["id"], letter["event"], letter["data"], letter["rooms"]) == (id, "deployed", {"n": 1}, ["project:p"])
    assert api.get("/dead-letters?after=x").status_code == 422


def test_one_some_and_all_are_requeued_or_discarded(place: Place) -> None:
    api = ApiClient(place)
    id, users = buried(place, 4)

    def left() -> list[str]:
        return [letter["userId"] for letter in api.get("/dead-letters").get_json()["deadLetters"]]

    assert api.post("/dead-letters/requeue", {"id": id, "userId": users[0]}).get_json() == {"requeued": 1}
    assert api.post("/dead-letters/discard", {"id": id, "userId": users[1]}).get_json() == {"discarded": 1}
    assert left() == users[2:]
    assert api.post("/dead-letters/discard", {"id": id, "userId": users[1]}).status_code == 404
    assert api.get(f"/deliveries/{id}?user={users[0]}").get_json()["state"] == "pending"
    assert api.post("/dead-letters/requeue", {"id": id}).get_json() == {"requeued": 2}
    assert left() == []
    _, died = buried(place, 2)
    assert api.post("/dead-letters/discard", {"all": True}).get_json() == {"discarded": len(died)}
    assert api.post("/dead-letters/discard", {"all": True}).get_json() == {"discarded": 0}


@pytest.mark.parametrize("body", [{}, {"all": False}, {"all": True, "id": "x"}, {"userId": "x"}, {"id": 7}, []])
def test_wrong_choices(place: Place, body: Any) -> None:
    assert ApiClient(place).post("/dead-letters/requeue", body).status_code == 422


def test_scopes(place: Place) -> None:
    api = ApiClient(place, "publish", "read")
    assert api.get("/dead-letters").status_code == 403
    for verb in ("requeue", "discard"):
        assert api.post(f"/dead-letters/{verb}", {"all": True}).status_code == 403
