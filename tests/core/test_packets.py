"""Packets: what a client may send is read exactly, everything else is a BadPacket and nothing but that."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsapp.core.depth import MAX_DEPTH
from wsapp.core.packets import MAX_ATTACHMENTS, RESERVED_NAMES, BadPacket, Kind, ReservedName, decode


@pytest.mark.parametrize(("text", "kind", "namespace", "id", "data"), [
    ("0", Kind.CONNECT, "/", None, None),
    ('0{"token":"x"}', Kind.CONNECT, "/", None, {"token": "x"}),
    ('0/admin,{"a":1}', Kind.CONNECT, "/admin", None, {"a": 1}),
    ("0/admin", Kind.CONNECT, "/admin", None, None),
    ("0/admin?token=1,", Kind.CONNECT, "/admin", None, None),
    ("0/admin?token=1", Kind.CONNECT, "/admin", None, None),
    ("1", Kind.DISCONNECT, "/", None, None),
    ("1/admin,", Kind.DISCONNECT, "/admin", None, None),
    ('2["a"]', Kind.EVENT, "/", None, ["a"]),
    ('2["a",1,{"b":[2]}]', Kind.EVENT, "/", None, ["a", 1, {"b": [2]}]),
    ('212["a"]', Kind.EVENT, "/", 12, ["a"]),
    ('20["a"]', Kind.EVENT, "/", 0, ["a"]),
    ('2/admin,12["a"]', Kind.EVENT, "/admin", 12, ["a"]),
    ("37[]", Kind.ACK, "/", 7, []),
    ("3/admin,7[1]", Kind.ACK, "/admin", 7, [1]),
    ('2["ü\u2028","\\ud83d\\ude00"]', Kind.EVENT, "/", None, ["ü\u2028", "😀"]),
])
def test_what_a_client_may_send(text: str, kind: Kind, namespace: str, id: int | None, data: object) -> None:
    packet = decode(text)
    assert (packet.kind, packet.namespace, packet.id, packet.data, packet.missing) == (kind, namespace, id, data, 0)


@pytest.mark.parametrize("text", [
    "", "7", "x", " 2", '9["a"]', "-1",
    "2", "2{}", "2[]", "2[1]", "2[null]", "2[[]]", '2"a"', '2["a"', '2["a"]]', '2["a"] x',
    '2["a",NaN]', '2["a",Infinity]', '2["a",-Infinity]', "2['a']", '2-1["a"]',
    '21-["a"]', '5["a"]', '5x-["a"]', "61-", '6["a"]', "61-[]",
    "01", "01{}", "0[]", '0"x"', "0null", "0 1",
    "1[]", "1{}", "1x",
    "3", "3[]", "31", "31{}", '31"x"',
    "4", '4{"message":"x"}',
    '2/admin["a"]', "2/admin", "3/admin",
    '212345678901234567890["a"]', '5123456789-["a"]', "0/" + "n" * 300 + ",", '2\u0661["a"]', '5\u0661-["a"]',
])
def test_what_it_may_not(text: str) -> None:
    with pytest.raises(BadPacket):
        decode(text)


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_names_can_be_told_to_the_one_who_waits_for_an_answer(name: str) -> None:
    with pytest.raises(ReservedName) as caught:
        decode("23" + json.dumps([name, 1]))
    assert caught.value.ack_id == 3
    with pytest.raises(ReservedName) as caught:
        decode("2" + json.dumps([name]))
    assert caught.value.ack_id is None


def nested(depth: int) -> str:
    return '2["a",' + "[" * (depth - 1) + "]" * (depth - 1) + "]"


def test_depth_is_bounded_and_brackets_in_strings_are_no_depth() -> None:
    assert decode(nested(MAX_DEPTH)).data[0] == "a"
    with pytest.raises(BadPacket, match="deeper"):
        decode(nested(MAX_DEPTH + 1))
    with pytest.raises(BadPacket):
        decode(nested(200_000))
    assert decode("2" + json.dumps(["a", '[{"\\[' * 100])).data[1] == '[{"\\[' * 100
    assert len(decode("2" + json.dumps(["a", *([[]] * 1000)])).data) == 1001


def test_attachments_fill_their_placeholders_in_any_order() -> None:
    packet = decode('52-7["up",{"_placeholder":true,"num":1},{"deep":[{"_placeholder":true,"num":0}]}]')
    assert (packet.kind, packet.id, packet.missing) == (Kind.BINARY_EVENT, 7, 2)
    assert not packet.attach(b"zero")
    assert packet.attach(b"one")
    assert packet.data == ["up", b"one", {"deep": [b"zero"]}]


def test_a_binary_ack() -> None:
    packet = decode('61-3[{"_placeholder":true,"num":0}]')
    assert packet.attach(b"x")
    assert packet.data == [b"x"]


@pytest.mark.parametrize("number", ["1", "-1", "true", '"0"', "null", "0.0", "[]"])
def test_a_placeholder_that_points_nowhere(number: str) -> None:
    packet = decode('51-["a",{"_placeholder":true,"num":' + number + "}]")
    with pytest.raises(BadPacket, match="placeholder"):
        packet.attach(b"x")


def test_a_placeholder_lookalike_is_data() -> None:
    packet = decode('51-["a",{"_placeholder":1,"num":0}]')
    packet.attach(b"x")
    assert packet.data == ["a", {"_placeholder": 1, "num": 0}]


def test_too_many_attachments() -> None:
    decode(f'5{MAX_ATTACHMENTS}-["a"]')
    with pytest.raises(BadPacket, match="attachments"):
        decode(f'5{MAX_ATTACHMENTS + 1}-["a"]')


pieces = st.sampled_from([*'0123456789-/,?[]{}":', "_placeholder", "true", "num", "null", '"a"', "\\", "NaN", "1e999",
                          "connect", "\u0661", "\ud800", "\x00", "9" * 5000])


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=60) | st.lists(pieces, max_size=25).map("".join), st.lists(st.binary(max_size=4), max_size=17))
def test_anything_is_a_packet_or_a_bad_one(text: str, attachments: list[bytes]) -> None:
    try:
        packet = decode(text)
        for attachment in attachments[:packet.missing]:
            packet.attach(attachment)
    except BadPacket:
        return
    assert packet.kind in Kind


json_values = st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.text(max_size=8),
                           lambda inner: (st.lists(inner, max_size=3)
                                          | st.dictionaries(st.text(max_size=4), inner, max_size=3)), max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=10).filter(lambda name: name not in RESERVED_NAMES), st.lists(json_values, max_size=3),
       st.none() | st.integers(0, 10**15))
def test_every_event_comes_back(name: str, arguments: list[object], id: int | None) -> None:
    packet = decode("2" + ("" if id is None else str(id)) + json.dumps([name, *arguments]))
    assert (packet.data, packet.id) == ([name, *arguments], id)
