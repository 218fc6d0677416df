"""The AsyncAPI document; its messages are held against real traffic in tests/cluster/test_asyncapi.py."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.harness import ROOT
from wsapp.blueprints.api.asyncapi import describe as described
from wsapp.blueprints.sessions import sessions
from wsapp.blueprints.subscriptions import subscriptions
from wsapp.core.events import RESERVED_EVENTS
from wsapp.errors import PayloadError

EVENTS = {**subscriptions.events, **sessions.events}
SPECIFICATION = ROOT / "tests/node_modules/@asyncapi/specs/schemas/3.0.0.json"
SOCKET_IO = {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}


def asyncapi() -> dict[str, Any]:
    return described(tuple(EVENTS.values()))


@pytest.mark.skipif(not SPECIFICATION.exists(), reason="the npm package @asyncapi/specs is not installed")
def test_it_is_what_the_specification_asks_for() -> None:
    jsonschema.Draft7Validator(json.loads(SPECIFICATION.read_text())).validate(asyncapi())


def _references(told: Any) -> list[str]:
    found, left = [], [told]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            found += [one["$ref"]] if isinstance(one.get("$ref"), str) else []
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found


def test_every_reference_leads_somewhere() -> None:
    told = asyncapi()
    references = _references(told)
    assert len(references) > 50
    for reference in references:
        place: Any = told
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_every_payload_is_a_schema() -> None:
    for message in asyncapi()["components"]["messages"].values():
        jsonschema.Draft7Validator.check_schema(message["payload"])


def test_a_request_is_described_by_the_schema_that_judges_it() -> None:
    payload = asyncapi()["components"]["messages"]["subscribe-task"]["payload"]
    document = {**payload, "components": asyncapi()["components"]}
    schema = EVENTS["subscribe-task"].schema
    assert schema is not None
    for given, fits in ((1, True), ("t", True), ({"id": "t", "since": {"epoch": "e", "seq": 1}}, True), (["t"], True),
                        ("", False), ({}, False), ({"id": "t", "since": {"seq": 1}}, False),
                        ({"id": "t", "x": 1}, False)):
        assert jsonschema.Draft7Validator(document).is_valid(given) == fits, given
        if not isinstance(given, list):
            try:
                schema.parse(given, "subscribe-task")
                assert fits
            except PayloadError:
                assert not fits


def test_every_request_and_every_event_is_described() -> None:
    operations = asyncapi()["operations"]
    requests = EVENTS.keys()
    assert requests <= operations.keys()
    assert {operations[name]["action"] for name in requests} == {"receive"}
    told = RESERVED_EVENTS - SOCKET_IO - {"ack-wanted"}
    assert {name for name, operation in operations.items() if operation["action"] == "send"} == {
        *told, "agent-thought", "task-update", "project-event", "stream"}
