"""The OpenAPI document."""

from __future__ import annotations

import jsonschema
import pytest
from openapi_spec_validator import validate

from wsapp.blueprints.api.openapi import describe as openapi
from wsapp.errors import PayloadError
from wsapp.schemas import thought_draft


def test_it_is_valid() -> None:
    validate(openapi())


@pytest.mark.parametrize("data", [
    {"agentId": "a", "thought": ""}, {"agentId": 7, "thought": "x", "mine": [1]}, {"agentId": "a"},
    {"agentId": " ", "thought": ""}, {"agentId": "a\nb", "thought": ""}, {"agentId": "x" * 201, "thought": ""},
    {"agentId": "a", "thought": "", "delta": True}, {"agentId": "a", "thought": "", "delta": True, "thoughtId": "t"},
    {"agentId": "a", "thought": None}, {"agentId": "a", "thought": "", "taskId": None, "timestamp": -1}])
def test_the_document_and_the_judge_agree(data: dict[str, object]) -> None:
    try:
        jsonschema.validate(data, openapi()["components"]["schemas"]["AgentThought"])
        described = True
    except jsonschema.ValidationError:
        described = False
    try:
        thought_draft(data, now_ms=1)
        taken = True
    except PayloadError:
        taken = False
    assert described == taken
