"""Events: both encodings hold what was published, and nothing that a browser would choke on."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsapp.core.events import (
    Draft,
    Lane,
    Placed,
    Profile,
    Publication,
    body_flags,
    packet,
    parse_record,
    publish_draft,
    strict_dumps,
    strict_loads,
)
from wsapp.errors import PayloadError

TWO_ROOMS = (Placed("agent:1", 7, "e1"), Placed("task:2", 3, "e2"))

words = st.text(st.characters(exclude_characters="\t\n", exclude_categories=["Cs"]), min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["id", "seq", "a", "é\n\t", "\u2028"]), inner, max_size=3), max_leaves=8)
places = st.lists(st.builds(Placed, words, st.integers(1, 2**53), words), min_size=1, max_size=4,
                  unique_by=lambda place: place.room).map(tuple)


def publication(data: object, places: tuple[Placed, ...] = TWO_ROOMS, flags: str = "",
                event: str = "built") -> Publication:
    body = strict_dumps(data).encode()
    return Publication("41-0", 1234, 5, flags + body_flags(data), Lane.LOG, "x", event, places, body)


def arguments(text: bytes) -> list[Any]:
    assert text.startswith(b"42[")
    found = strict_loads(text[2:])
    assert isinstance(found, list)
    return found


@settings(max_examples=150, deadline=None)
@given(words, st.integers(0, 2**53), st.integers(0, 10), st.sampled_from(["", "i", "s", "is", "cis"]),
       st.sampled_from(list(Lane)), st.just("") | words, words, places, st.binary(max_size=40))
def test_record_round_trip(id: str, ts: int, priority: int, flags: str, lane: Lane, entity: str, event: str,
                           places: tuple[Placed, ...], body: bytes) -> None:
    before = Publication(id, ts, priority, flags, lane, entity, event, places, body)
    after = parse_record(before.record())
    for name in ("id", "ts", "priority", "flags", "lane", "entity", "event", "places", "body"):
        assert getattr(after, name) == getattr(before, name)
    assert after.texts == {}


@pytest.mark.parametrize("record", [
    b"", b"no newline", b"\n{}", b"1\t2\t5\t-\tl\tx\tbuilt\n{}", b"1\t2\t5\t-\tl\tx\tbuilt\troom\t1\n{}",
    b"1\tnow\t5\t-\tl\tx\tbuilt\troom\t1\te\n{}", b"1\t2\t5\t-\tl\tx\tbuilt\troom\tone\te\n{}",
    b"\xff\t2\t5\t-\tl\tx\tbuilt\troom\t1\te\n{}"])
def test_a_bad_record_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError):
        parse_record(record)


def test_the_head_of_a_draft_is_the_middle_of_the_record() -> None:
    draft = Draft("built", ("agent:1", "task:2"), b"{}", 1234, 6, Lane.STATE, "2", "is", id="41-0")
    found = publish_draft(draft, TWO_ROOMS)
    head = found.record().split(b"\n")[0].decode()
    assert head == f"41-0\t{draft.head()}\tagent:1\t7\te1\ttask:2\t3\te2"
    assert parse_record(found.record()).places == TWO_ROOMS
    assert Draft("built", ("agent:1",), b"{}", 1).head() == "1\t5\t-\tl\t\tbuilt"


@settings(max_examples=150, deadline=None)
@given(json_values, words, places, st.sampled_from(["", "c"]), st.data())
def test_every_profile_is_strict_json_and_carries_what_was_published(
        value: object, event: str, places: tuple[Placed, ...], flags: str, draw: st.DataObject) -> None:
    found = publication(value, places, flags, event)
    place = draw.draw(st.sampled_from(places))
    plain, sdk = (arguments(found.text(profile, place.room)) for profile in Profile)
    assert plain[0] == sdk[0] == event
    assert plain[1] == sdk[1]
    assert (len(plain), len(sdk)) == (2, 3)
    if isinstance(value, dict):
        assert plain[1] == {"id": "41-0", "seq": place.seq, **value}
    else:
        assert plain[1] == value
    assert sdk[2]["id"] == "41-0"
    assert sdk[2]["rooms"] == {there.room: there.seq for there in places}
    assert sdk[2].get("critical", False) is bool(flags)


@pytest.mark.parametrize(("data", "expected"), [
    ({}, {"id": "41-0", "seq": 7}),
    ({"id": "mine"}, {"id": "mine", "seq": 7}),
    ({"seq": None}, {"seq": None, "id": "41-0"}),
    ({"id": 0, "seq": 0}, {"id": 0, "seq": 0}),
    ([], []), ([1], [1]), ("text", "text"), (None, None), (5, 5)])
def test_id_and_seq_are_added_to_objects_and_never_over_the_publishers(data: object, expected: object) -> None:
    text = publication(data).text(Profile.PLAIN, "agent:1")
    assert arguments(text)[1] == expected
    pairs = json.loads(text[2:], object_pairs_hook=list)[1]
    if isinstance(data, dict):
        assert len(pairs) == len(expected)  # type: ignore[arg-type]  # no key twice


def test_seq_is_that_of_the_room() -> None:
    found = publication({})
    assert (found.seq("agent:1"), found.seq("task:2")) == (7, 3)
    assert arguments(found.text(Profile.PLAIN, "task:2"))[1]["seq"] == 3
    with pytest.raises(KeyError):
        found.seq("task:1")


def test_meta() -> None:
    assert strict_loads(publication({}).meta_json()) == {
        "id": "41-0", "ts": 1234, "epoch": "e1", "rooms": {"agent:1": 7, "task:2": 3},
        "epochs": {"agent:1": "e1", "task:2": "e2"}}
    assert strict_loads(publication({}, TWO_ROOMS[:1], "c").meta_json()) == {
        "id": "41-0", "ts": 1234, "epoch": "e1", "rooms": {"agent:1": 7}, "critical": True}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"deep": [math.nan]}, object(), {1, 2}, b"bytes",
                                   {("a", "tuple"): 1}])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(PayloadError) as caught:
        strict_dumps(value)
    assert caught.value.fields["data"]
    with pytest.raises(PayloadError):
        packet("mode", value)


def test_what_nests_too_deep_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(PayloadError):
        strict_dumps(loop)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a":-Infinity}', b"NaN", "", "{", b"\xff"])
def test_what_is_not_json_is_not_read(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        strict_loads(text)


def test_packet() -> None:
    assert packet("server-shutdown", {"retryAfterMs": 5}) == b'42["server-shutdown",{"retryAfterMs":5}]'
    assert packet("é") == '42["é"]'.encode()
