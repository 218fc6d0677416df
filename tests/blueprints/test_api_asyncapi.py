"""The AsyncAPI document; its messages are held against real traffic in tests/cluster/test_api.py."""

from __future__ import annotations

import jsonschema

from wsapp.blueprints.api_asyncapi import asyncapi
from wsapp.blueprints.subscriptions import subscriptions


def test_every_reference_leads_somewhere() -> None:
    told = asyncapi()
    messages = told["components"]["messages"]
    assert set(told["channels"]["root"]["messages"]) == set(messages)
    for operation in told["operations"].values():
        for message in operation["messages"] + operation.get("reply", {}).get("messages", []):
            assert message["$ref"].rpartition("/")[2] in messages
    for message in messages.values():
        jsonschema.Draft202012Validator.check_schema(message["payload"])


def test_every_request_about_rooms_is_described() -> None:
    assert set(subscriptions.events) <= set(asyncapi()["operations"])
