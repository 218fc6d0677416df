"""Publishing over HTTP, on the memory backend."""

from __future__ import annotations

from typing import Any

import pytest

from tests.blueprints.api.client import ApiClient
from tests.blueprints.conftest import Place


def thought(text: str = "hm", **more: Any) -> dict[str, Any]:
    return {"type": "agent-thought", "data": {"agentId": "a", "thought": text}, **more}


def test_the_three_broadcasts(place: Place) -> None:
    api = ApiClient(place)
    for body, room in ((thought(), "agent:a"),
                       ({"type": "task-update", "data": {"taskId": "t", "status": "failed"}}, "task:t"),
                       ({"type": "project-event", "projectId": 7, "event": "built"}, "project:7")):
        told = api.post("/publish", body).get_json()
        assert (told["status"], told["duplicate"]) == ("accepted", False)
        assert told["positions"][room]["seq"] == 1


def test_options(place: Place) -> None:
    api = ApiClient(place)
    told = api.post("/publish", thought(alsoTo=["project:p", "agent:a"], priority=9, critical=True)).get_json()
    assert set(told["positions"]) == {"agent:a", "project:p"}


@pytest.mark.parametrize("quoted", [False, True])
def test_an_idempotency_key_publishes_once(place: Place, quoted: bool) -> None:
    api = ApiClient(place)
    header = {"Idempotency-Key": '"k 1"'.replace(" ", "-") if quoted else "k-1"}
    first = api.post("/publish", thought(), headers=header).get_json()
    again = api.post("/publish", thought(key="k-1")).get_json()
    assert (again["id"], again["duplicate"]) == (first["id"], True)
    assert api.post("/publish", thought(key="other"), headers=header).get_json()["duplicate"] is False


def test_an_idempotency_key_is_of_the_api_key_that_uses_it(place: Place) -> None:
    """Another integration that counts its requests as well gets the receipt of its own event, not of a stranger's."""
    header = {"Idempotency-Key": "1"}
    ours, theirs = ApiClient(place), ApiClient(place, "publish")
    first = ours.post("/publish", thought(), headers=header).get_json()
    other = theirs.post("/publish", thought(), headers=header).get_json()
    assert other["duplicate"] is False
    assert other["id"] != first["id"]
    again = theirs.post("/publish", thought(key="1"), headers={}).get_json()
    assert (again["id"], again["duplicate"]) == (other["id"], True)


@pytest.mark.parametrize("key", ["", '"', '""', "a b", "k" * 191, "ü"])
def test_wrong_keys(place: Place, key: str) -> None:
    reply = ApiClient(place).post("/publish", thought(), headers={"Idempotency-Key": key})
    assert reply.status_code == 422
    assert "Idempotency-Key" in reply.get_json()["fields"]


def test_a_batch_is_all_or_nothing(place: Place) -> None:
    api = ApiClient(place)
    assert api.post("/publish/batch", {"events": [thought("1"), {"type": "x"}]}).status_code == 422
    for wrong in ({}, {"events": []}, {"events": [thought()] * 501}, {"events": [1]}, {"events": [thought()], "a": 1}):
        assert api.post("/publish/batch", wrong).status_code == 422
    told = api.post("/publish/batch", {"events": [thought(str(number)) for number in range(500)]}).get_json()
    assert [receipt["positions"]["agent:a"]["seq"] for receipt in told["receipts"]] == list(range(1, 501))
