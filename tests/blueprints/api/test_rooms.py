"""Rooms, histories and presence over HTTP, on the memory backend."""

from __future__ import annotations

import pytest

from tests.blueprints.api.client import ApiClient
from tests.blueprints.conftest import Place


def fill(place: Place, count: int) -> None:
    for number in range(count):
        place.server.broadcast_agent_thought({"agentId": "a/b", "thought": str(number)})


@pytest.mark.parametrize(("way", "pages"), [
    ("?since=0&limit=2", [[1, 2], [3, 4], [5]]), ("?limit=2", [[5, 4], [3, 2], [1]]), ("?limit=5", [[5, 4, 3, 2, 1]]),
    ("?before=3&limit=1", [[2], [1]]), ("?since=1&before=4&limit=1", [[2], [3]]), ("?since=5", [[]]),
    ("?since=9007199254740991", [[]]), ("?before=0", [[]]), ("?since=3&before=2", [[]])])
def test_pages(place: Place, way: str, pages: list[list[int]]) -> None:
    fill(place, 5)
    api, path, found = ApiClient(place), f"/rooms/agent:a/b/history{way}", []
    while path:
        page = api.get(path).get_json()
        assert (page["room"], page["seq"], page["first"]) == ("agent:a/b", 5, 1)
        found.append([event["seq"] for event in page["events"]])
        path = (page["next"] or "").removeprefix("/api/v1")
    assert found == pages


def test_an_unchanged_page_is_not_sent_again(place: Place) -> None:
    fill(place, 1)
    api = ApiClient(place)
    tag = api.get("/rooms/agent:a/b/history").headers["ETag"]
    assert tag.startswith("W/")
    same = api.get("/rooms/agent:a/b/history", headers={"If-None-Match": tag})
    assert (same.status_code, same.data) == (304, b"")
    fill(place, 1)
    assert api.get("/rooms/agent:a/b/history", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize("path", ["/rooms/nowhere/history", "/rooms/agent:/presence", "/rooms/agent:a/history?limit=0",
                                  "/rooms/agent:a/history?limit=1&limit=2", "/rooms?kind=planet", "/rooms?limit=x"])
def test_wrong_questions(place: Place, path: str) -> None:
    assert ApiClient(place).get(path).status_code == 422


def test_rooms_and_who_is_in_them(place: Place) -> None:
    api = ApiClient(place)
    clients = [place.client() for _ in range(2)]
    for client in clients:
        for event, id in (("subscribe-agent", "b"), ("subscribe-agent", "a"), ("subscribe-task", "t")):
            assert client.ask(event, id)["ok"]
    assert [room["room"] for room in api.get("/rooms").get_json()["rooms"]] == ["agent:a", "agent:b", "task:t"]
    first = api.get("/rooms?limit=1").get_json()
    assert first["rooms"] == [{"room": "agent:a", "connections": 2, "users": 2}]
    assert api.get(f"/rooms?limit=5&after={first['next']}&kind=agent").get_json() == {
        "rooms": [{"room": "agent:b", "connections": 2, "users": 2}], "next": None, "missing": []}
    who = api.get("/rooms/agent:a/presence").get_json()
    assert (who["watched"], who["users"], who["connections"]) == (True, 2, 2)
    assert not api.get("/rooms/agent:c/presence").get_json()["watched"]
    assert place.server.watchers("agent:a")
