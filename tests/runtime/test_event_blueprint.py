"""Socket events and routes of one feature."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from marshmallow import fields

from wsapp.errors import ErrorCode, PayloadError, RequestError
from wsapp.runtime.event_blueprint import MAX_LIST, Call, EventBlueprint
from wsapp.schemas import RequestSchema


def test_it_collects_handlers_and_is_a_flask_blueprint() -> None:
    feature = EventBlueprint("feature", __name__, url_prefix="/feature")

    @feature.event("ask")
    def ask(call: Call, payload: Any) -> dict[str, object]:
        return {"told": payload}

    @feature.get("/")
    def page() -> str:
        return "page"

    assert feature.events["ask"].handler is ask
    assert feature.events["ask"](Call(None, None), 7) == {"told": 7}  # type: ignore[arg-type]
    app = Flask("host")
    app.register_blueprint(feature)
    assert app.test_client().get("/feature/").text == "page"


def test_two_calls_do_not_share_what_comes_after() -> None:
    one, two = Call(None, None), Call(None, None)  # type: ignore[arg-type]
    one.after.append(print)
    assert two.after == []


class Number(RequestSchema):
    """One number."""

    bare = "number"
    number = fields.Integer(required=True)


def test_a_handler_gets_what_the_schema_makes_of_the_payload() -> None:
    feature, call = EventBlueprint("feature", __name__), Call(None, None)  # type: ignore[arg-type]
    feature.event("double", Number())(lambda _call, request: {"twice": 2 * request["number"]})
    assert feature.events["double"](call, 4) == feature.events["double"](call, {"number": 4}) == {"twice": 8}
    with pytest.raises(PayloadError, match="double: number"):
        feature.events["double"](call, {"number": "many"})


def test_each_item_of_a_list_has_its_answer() -> None:
    handled: list[object] = []

    def double(_call: Call, requests: list[dict[str, int]]) -> list[object]:
        handled.append(requests)
        return [RequestError(ErrorCode.LIMIT, "too much") if one["number"] > 9 else {"twice": 2 * one["number"]}
                for one in requests]

    feature, call = EventBlueprint("feature", __name__), Call(None, None)  # type: ignore[arg-type]
    feature.event("double", Number(), lists=True)(double)
    event = feature.events["double"]
    answer = event(call, [1, "x", 10])
    assert answer is not None
    rooms: Any = answer["rooms"]
    assert rooms[0] == {"ok": True, "twice": 2}
    assert [one["error"]["code"] for one in rooms[1:]] == ["bad_payload", "limit"]
    assert handled == [[{"number": 1}, {"number": 10}]], "one call for all"
    assert event(call, 3) == {"twice": 6}
    with pytest.raises(RequestError, match="too much"):
        event(call, 10)
    for wrong in ([], [1] * (MAX_LIST + 1)):
        with pytest.raises(PayloadError, match="1 to 100 items"):
            event(call, wrong)
