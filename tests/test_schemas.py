"""Every payload at the boundary: what is taken, what is refused and by which field."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsapp import schemas
from wsapp.core.depth import MAX_DEPTH
from wsapp.core.events import RESERVED_EVENTS, Draft, Lane, Placed, parse_record, publish_draft
from wsapp.errors import PayloadError

NOW = 1_700_000_000_000


def thought(data: Any = None, /, **more: Any) -> Draft:
    options = {name: more.pop(name) for name in ("priority", "also_to", "key", "critical", "max_bytes", "nonsense")
               if name in more}
    return schemas.thought_draft({"agentId": "coder", "thought": "hm", **more} if data is None else data,
                                 now_ms=NOW, **options)


def task(**data: Any) -> Draft:
    return schemas.task_draft({"taskId": "t1", "status": "in_progress", **data}, now_ms=NOW)


def fields_of(call: Any, *args: Any, **kwargs: Any) -> set[str]:
    with pytest.raises(PayloadError) as caught:
        call(*args, **kwargs)
    assert caught.value.told()["fields"] == caught.value.fields
    return set(caught.value.fields)


def test_a_thought() -> None:
    draft = thought(taskId="t1", projectId="p1", mood={"x": [1, None]})
    assert (draft.event, draft.rooms) == ("agent-thought", ("agent:coder",))
    assert (draft.lane, draft.entity) == (Lane.LOG, "coder")
    assert (draft.ts, draft.priority, draft.flags, draft.key) == (NOW, 5, "is", "")
    assert json.loads(draft.body) == {"agentId": "coder", "thought": "hm", "taskId": "t1", "projectId": "p1",
                                      "timestamp": NOW, "mood": {"x": [1, None]}}


def test_a_timestamp_of_the_callers_is_kept_and_does_not_age_the_event() -> None:
    draft = thought(timestamp=5.7)
    assert json.loads(draft.body)["timestamp"] == 5
    assert draft.ts == NOW


def test_snake_case_of_python_callers() -> None:
    draft = thought({"agent_id": 7, "thought": "x", "task_id": "t", "my_key": 1})
    assert draft.rooms == ("agent:7",)
    assert json.loads(draft.body) == {"agentId": "7", "thought": "x", "taskId": "t", "my_key": 1, "timestamp": NOW}
    assert fields_of(thought, {"agent_id": "a", "agentId": "a", "thought": "x"}) == {"agentId"}


def test_any_mapping_and_nothing_else() -> None:
    assert thought(OrderedDict(agentId="a", thought="b")).rooms == ("agent:a",)
    for wrong in ([("agentId", "a")], "coder", 5, object()):
        assert fields_of(thought, wrong) == {"payload"}


def test_the_callers_data_is_not_changed() -> None:
    data = {"agentId": "a", "thought": "b"}
    thought(data)
    assert data == {"agentId": "a", "thought": "b"}


@pytest.mark.parametrize("wrong", ["", " ", None, True, 1.5, [], "x" * 201, "a\tb", "a\nb", "a\x85b", "a\ud800"])
def test_ids(wrong: object) -> None:
    assert fields_of(thought, agentId=wrong) == {"agentId"}
    assert fields_of(schemas.room_name, "agent", wrong) == {"id"}


def test_several_faults_are_told_at_once() -> None:
    assert fields_of(thought, {"thought": 5, "timestamp": "now", "delta": 1}) == {
        "agentId", "thought", "timestamp", "delta"}


@pytest.mark.parametrize("wrong", ["*", "team-*", "a*b"])
def test_a_pattern_is_no_room(wrong: str) -> None:
    calls: list[Any] = [
        lambda: schemas.parse_room(f"project:{wrong}"),
        lambda: thought(agentId=wrong),
        lambda: task(taskId=wrong),
        lambda: schemas.project_draft(wrong, "deployed", now_ms=NOW),
    ]
    for call in calls:
        with pytest.raises(PayloadError, match="only grants of rights take: name each room"):
            call()


@pytest.mark.parametrize("wrong", [-1, 2**53, float("nan"), float("inf"), "1", True])
def test_timestamps(wrong: object) -> None:
    assert fields_of(thought, timestamp=wrong) == {"timestamp"}


def test_deltas_are_joined_by_thought() -> None:
    draft = thought(delta=True, thoughtId="x1")
    assert (draft.lane, draft.entity) == (Lane.APPEND, "x1")
    assert thought(delta=False, thoughtId="x1").lane is Lane.LOG
    assert fields_of(thought, delta=True) == {"thoughtId"}


def test_only_a_delta_may_be_empty() -> None:
    assert fields_of(thought, thought="") == fields_of(thought, thought="", delta=False, thoughtId="x") == {"thought"}
    assert thought(thought="", delta=True, thoughtId="x1").lane is Lane.APPEND


def test_a_task_update() -> None:
    draft = task(progress=41.5, message=None, agentId="a")
    assert (draft.event, draft.rooms, draft.lane, draft.entity) == ("task-update", ("task:t1",), Lane.STATE, "t1")
    assert json.loads(draft.body)["progress"] == 41.5
    assert isinstance(json.loads(task(progress=42).body)["progress"], int)


@pytest.mark.parametrize(("field", "value"), [
    ("status", "done"), ("status", None), ("status", ["failed"]), ("progress", 101), ("progress", -0.1),
    ("progress", "5"), ("progress", 0.4), ("progress", 5e-324),
    ("progress", float("nan")), ("progress", True), ("message", 5), ("taskId", ""),
])
def test_task_faults(field: str, value: object) -> None:
    assert fields_of(task, **{field: value}) == {field}


def test_a_project_event() -> None:
    draft = schemas.project_draft("p1", "deployed", [1, 2], now_ms=NOW)
    assert (draft.event, draft.rooms, draft.lane, draft.entity) == ("deployed", ("project:p1",), Lane.LOG, "deployed")
    assert (draft.body, draft.flags) == (b"[1,2]", "")
    assert schemas.project_draft(1, "e", {"id": 1}, now_ms=NOW).flags == "s"


@pytest.mark.parametrize("event", [*sorted(RESERVED_EVENTS), "agent-thought", "task-update", "", "a\tb", None, 5,
                                   "e" * 201])
def test_names_that_are_taken(event: Any) -> None:
    assert fields_of(schemas.project_draft, "p1", event, {}, now_ms=NOW) == {"event"}


@pytest.mark.parametrize("data", [float("nan"), {"x": float("inf")}, {"x": object()}, {"x": "\ud800"}, {1: 2}, b"x"])
def test_data_that_is_no_json(data: Any) -> None:
    assert fields_of(schemas.project_draft, "p1", "e", data, now_ms=NOW) == {"data"}


def test_deep_data() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert fields_of(schemas.project_draft, "p1", "e", deep, now_ms=NOW) == {"data"}


def test_data_is_as_deep_as_every_client_can_read() -> None:
    deep: Any = "[[[[" * 100
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert thought(more=deep)
    assert fields_of(thought, more=[deep]) == {"data"}
    assert fields_of(schemas.project_draft, "p1", "e", {"a": [deep]}, now_ms=NOW) == {"data"}
    assert fields_of(schemas.json_body, {"a": [deep]}, 1_000_000) == {"data"}


def test_size_is_counted_in_bytes() -> None:
    assert fields_of(thought, thought="ü" * 100, max_bytes=250) == {"data"}
    assert thought(thought="u" * 100, max_bytes=250)


def test_options() -> None:
    draft = thought(priority=0, also_to=["task:t1", "project:p:1", "task:t1", "agent:coder"], key="k", critical=True)
    assert draft.rooms == ("agent:coder", "task:t1", "project:p:1")
    assert (draft.priority, draft.key, draft.flags, draft.lane) == (0, "k", "isc", Lane.CRITICAL)
    assert thought(priority=9).lane is Lane.CRITICAL
    assert thought(priority=9).flags == "is"
    assert thought(also_to="task:t1").rooms == ("agent:coder", "task:t1")


@pytest.mark.parametrize(("option", "value"), [
    ("priority", 11), ("priority", -1), ("priority", True), ("priority", 5.0), ("also_to", ["t1"]),
    ("also_to", ["user:x"]), ("also_to", [5]), ("also_to", 5), ("also_to", [f"task:{n}" for n in range(16)]),
    ("also_to", ["task:a\tb"]), ("key", "k" * 201), ("key", "a\nb"), ("critical", 1), ("nonsense", 1),
])
def test_option_faults(option: str, value: object) -> None:
    assert fields_of(thought, **{option: value}) == {option}


def test_rooms() -> None:
    assert schemas.room_name("task", 5) == "task:5"
    assert schemas.parse_room("agent:a:b") == ("agent", "a:b")
    for wrong in ("agent", "agent:", "user:1", "", None, 5, "agent:\n"):
        assert fields_of(schemas.parse_room, wrong) == {"room"}
    assert fields_of(schemas.room_name, "user", "1") == {"kind"}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="*"), min_size=1, max_size=200).filter(
    lambda text: not text.isspace())


@given(IDS, IDS, JSON)
def test_what_is_taken_survives_the_record(project: str, event: str, data: Any) -> None:
    if event in RESERVED_EVENTS or event in ("agent-thought", "task-update"):
        return
    draft = schemas.project_draft(project, event, data, now_ms=NOW)
    publication = publish_draft(draft, tuple(Placed(room, 1, "e") for room in draft.rooms))
    again = parse_record(publication.record())
    assert (again.event, again.places, json.loads(again.body)) == (event, (Placed(f"project:{project}", 1, "e"),), data)
