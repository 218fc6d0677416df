"""Fields of the server API's own."""

from __future__ import annotations

import pytest
from marshmallow import ValidationError

from wsapp.blueprints.api.endpoints import Whole
from wsapp.blueprints.api.operations import Disconnect
from wsapp.blueprints.api.publish import PublishThought
from wsapp.blueprints.api.rooms import HistoryQuery


@pytest.mark.parametrize(("value", "written", "fits"), [
    (5, False, True), (5.0, False, True), (5.5, False, False), (True, False, False), ("5", False, False),
    (11, False, False), ("5", True, True), ("05", True, True), ("+5", True, False), ("5_0", True, False),
    ("\N{ARABIC-INDIC DIGIT FIVE}", True, False), ("", True, False), (5, True, False), (float("nan"), False, False)])
def test_whole(value: object, written: bool, fits: bool) -> None:
    field = Whole(0, 10, written=written)
    if fits:
        assert field.deserialize(value) == 5
    else:
        with pytest.raises(ValidationError):
            field.deserialize(value)


def test_unknown_fields_are_refused_but_in_the_data_of_the_user() -> None:
    body = {"type": "agent-thought", "data": {"agentId": "a", "thought": "x", "mine": 1}}
    assert PublishThought().load(body)["data"]["mine"] == 1
    with pytest.raises(ValidationError, match="mine"):
        PublishThought().load({**body, "mine": 1})
    with pytest.raises(ValidationError):
        HistoryQuery().load({"colour": "red"})


@pytest.mark.parametrize("body", [{}, {"userId": "a", "sid": "b"}, {"reason": "x"}])
def test_one_is_thrown_out_at_a_time(body: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Disconnect().load(body)
