"""Socket.IO protocol v5, sentence by sentence, on two real workers; with WSAPP_RECOVERY=off, which is the protocol
and nothing else.  Source: docs/socket.io-protocol/v5-current.md of the socketio/socket.io repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.raw_client import RawPolling, RawSocket
from tests.cluster.conftest import Witness
from tests.harness import Server

pytestmark = pytest.mark.cluster

PLACES = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'


@pytest.fixture(autouse=True)
def _bystanders(witness: Witness) -> Iterator[None]:
    yield
    witness.undisturbed()


@pytest.fixture
def bare(conformance: Server) -> Iterator[RawSocket]:
    """Engine.IO is open, no namespace is joined."""
    with RawSocket(conformance, connect=False) as raw:
        yield raw


@pytest.fixture
def raw(bare: RawSocket) -> RawSocket:
    """In the main namespace."""
    bare.send("40")
    assert next_packet(bare).startswith("40{")
    assert next_packet(bare) == '42["auth",{}]'
    return bare


def next_packet(raw: RawSocket) -> Any:
    """The very next packet that is no PING."""
    while True:
        found = raw.anything()
        if found != "2":
            return found


def alive(raw: RawSocket) -> None:
    raw.send('42["message","still here"]')
    assert next_packet(raw) == '42["message-back","still here"]'


# -- connection to a namespace


@pytest.mark.parametrize(("sent", "name", "auth"), [
    ("40", "", "{}"), ('40{"token":"123"}', "", '{"token":"123"}'), ("40{}", "", "{}"),
    ("40/custom,", "/custom,", "{}"), ("40/custom", "/custom,", "{}"),
    ('40/custom,{"token":"abc"}', "/custom,", '{"token":"abc"}'), ("40/custom?a=b,", "/custom,", "{}"),
])
def test_connect_is_answered_with_the_sid_before_anything_else(bare: RawSocket, sent: str, name: str,
                                                               auth: str) -> None:
    bare.send(sent)
    answer = next_packet(bare)
    assert answer.startswith(f"40{name}" + "{")
    told = json.loads(answer[2 + len(name):])
    assert set(told) == {"sid"}
    assert told["sid"] != bare.opened["sid"]
    assert next_packet(bare) == f'42{name}["auth",{auth}]'


def test_an_unknown_namespace_is_refused_and_the_connection_goes_on(raw: RawSocket) -> None:
    raw.send("40/random")
    assert next_packet(raw) == '44/random,{"message":"Invalid namespace"}'
    alive(raw)


def test_a_refusal_says_why_and_nothing_was_sent_before_it(raw: RawSocket) -> None:
    raw.send("40/closed,")
    answer = next_packet(raw)
    assert answer.startswith("44/closed,")
    assert json.loads(answer[10:]) == {"message": "members only", "data": {"try": "later"}}
    alive(raw)


@pytest.mark.parametrize("first", ['42["message",1]', '421["message",1]', "41", "431[]", '42/custom,["message"]',
                                   "41/custom,", '451-["message",{"_placeholder":true,"num":0}]'])
def test_anything_before_connect_closes(bare: RawSocket, first: str) -> None:
    bare.send(first)
    if first.startswith("45"):
        bare.binary(b"x")
    assert bare.close_code() == 1002


def test_no_connect_in_time_closes(bare: RawSocket) -> None:
    while bare.anything(or_close=True) == "2":
        bare.send("3")
    assert bare.closed_with == 1008


@pytest.mark.parametrize("again", ["40", '40{"a":1}'])
def test_connect_twice_closes(raw: RawSocket, again: str) -> None:
    raw.send(again)
    assert raw.close_code() == 1002


@pytest.mark.parametrize("wrong", ["40[]", '40"text"', "40null", "401", "40{", "40/custom,[]", "40/custom,7",
                                   '4012{"a":1}', "401-{}"])
def test_a_connect_that_is_none_closes(bare: RawSocket, wrong: str) -> None:
    bare.send(wrong)
    assert bare.close_code() == 1002


def test_a_refusal_is_the_servers_to_send(raw: RawSocket) -> None:
    raw.send('44{"message":"no"}')
    assert raw.close_code() == 1002


# -- disconnection


def test_disconnect_from_the_main_namespace_is_not_answered(raw: RawSocket) -> None:
    raw.send("41")
    assert raw.anything() == "2"
    raw.send("3")
    raw.send("40")
    assert next_packet(raw).startswith("40{"), "and may come back"


def test_namespaces_are_independent(raw: RawSocket) -> None:
    raw.send("40/custom")
    assert next_packet(raw).startswith("40/custom,{")
    assert next_packet(raw) == '42/custom,["auth",{}]'
    raw.send('42/custom,["message","there"]')
    assert next_packet(raw) == '42/custom,["message-back","there"]'
    raw.send('42/custom,7["message-with-ack","x"]')
    assert next_packet(raw) == '43/custom,7["x"]'
    raw.send("41/custom")
    alive(raw)
    raw.send('42/custom,["message","gone"]')
    assert raw.close_code() == 1002


def test_disconnect_takes_nothing(raw: RawSocket) -> None:
    raw.send('41["x"]')
    assert raw.close_code() == 1002


# -- data


@pytest.mark.parametrize("args", ['1,"2",{"3":[true]}', "null,1", '""', '"€ 𝄞 \\u0000 \\" \\\\"', "[]", "{}", "-1.5e3",
                                  "[[[[[[1]]]]]]", '"' + "x" * 100_000 + '"'])
def test_an_event_goes_and_comes_back(raw: RawSocket, args: str) -> None:
    raw.send(f'42["message",{args}]')
    answer = next_packet(raw)
    assert json.loads(answer[2:]) == ["message-back", *json.loads(f"[{args}]")]


def test_binary_events_are_put_together(raw: RawSocket) -> None:
    raw.send(f'452-["message",{PLACES}]')
    raw.binary(b"\1\2\3")
    raw.binary(b"\4\5\6")
    assert [next_packet(raw) for _ in range(3)] == [f'452-["message-back",{PLACES}]', b"\1\2\3", b"\4\5\6"]


def test_placeholders_may_be_anywhere_and_in_any_order(raw: RawSocket) -> None:
    raw.send('452-["message",{"a":[{"_placeholder":true,"num":1}]},{"_placeholder":true,"num":0}]')
    raw.binary(b"first")
    raw.binary(b"")
    assert json.loads(next_packet(raw)[4:]) == ["message-back", {"a": [{"_placeholder": True, "num": 0}]},
                                                {"_placeholder": True, "num": 1}]
    assert [next_packet(raw), next_packet(raw)] == [b"", b"first"]


def test_by_polling_too(conformance: Server) -> None:
    polling = RawPolling(conformance)
    polling.post(f'40\x1e452-9["message-with-ack",{PLACES}]\x1ebAQID\x1ebBAUG')
    seen = ""
    while "bBAUG" not in seen:
        seen += polling.get().text + "\x1e"
    assert f"462-9[{PLACES}]\x1ebAQID\x1ebBAUG" in seen


BROKEN = [
    "4", "47", "49", "4abc", "4-1", "4 2", "42", "42{}", "42[]", "42[1]", "42[null]", "42[{}]", "42[[]]", '42"message"',
    "42null", "42true", "421", '42["message"', '42["message"]x', '42["message",NaN]', '42["message",Infinity]',
    "42['message']", '42["message",1,]', '42abc["message"]', '42-1["message"]', '421.5["message"]',
    '42custom,["message"]', '42/custom["message"]', '42/custom,["message"]', '42/nowhere,["message"]',
    '421-["message",{"_placeholder":true,"num":0}]', "43", "43[]", "431", "431{}", '431"x"', "43x[]", "46[]", "461-[]",
    '45["message"]', '45-["message"]', '45x-["message"]', "451-", "451-{}", '4517-["message"]', "4599999-[1]",
    '42["message",' + "[" * 100_000 + "]" * 100_000 + "]", '4299999999999999999999["message"]',
    '42["message","\ud800"]'.encode("utf-8", "surrogatepass"),
]


@pytest.mark.parametrize("packet", BROKEN, ids=lambda packet: str(packet)[:30])
def test_packets_that_are_none_close(raw: RawSocket, packet: str | bytes) -> None:
    if isinstance(packet, bytes):
        raw.frame(1, packet)
        assert raw.close_code() == 1007
    else:
        raw.send(packet)
        assert raw.close_code() == 1002


@pytest.mark.parametrize("packet", [packet for packet in BROKEN if isinstance(packet, str)],
                         ids=lambda packet: str(packet)[:30])
def test_and_end_polling_with_400(conformance: Server, packet: str) -> None:
    polling = RawPolling(conformance)
    polling.post("40")
    polling.get()
    answers = [polling.post(packet), polling.post("3")]
    assert [answer.status for answer in answers] == [400, 400]


@pytest.mark.parametrize("place", ['{"_placeholder":true,"num":1}', '{"_placeholder":true,"num":-1}',
                                   '{"_placeholder":true,"num":"0"}', '{"_placeholder":true}',
                                   '{"_placeholder":true,"num":0.5}', '{"_placeholder":true,"num":true}',
                                   '{"_placeholder":true,"num":null}'])
def test_a_placeholder_that_points_nowhere_closes(raw: RawSocket, place: str) -> None:
    raw.send(f'451-["message",{place}]')
    raw.binary(b"x")
    assert raw.close_code() == 1002


def test_text_where_an_attachment_is_due_closes(raw: RawSocket) -> None:
    raw.send(f'452-["message",{PLACES}]')
    raw.binary(b"x")
    raw.send('42["message",1]')
    assert raw.close_code() == 1002


def test_an_attachment_of_nothing_closes(raw: RawSocket) -> None:
    raw.binary(b"x")
    assert raw.close_code() == 1002


def test_attachments_that_are_too_large_together_close(raw: RawSocket) -> None:
    raw.send(f'452-["message",{PLACES}]')
    raw.binary(b"x" * 600_000)
    raw.binary(b"x" * 600_000)
    assert raw.close_code() == 1002


@pytest.mark.parametrize("name", ["connect", "connect_error", "disconnect", "disconnecting", "newListener",
                                  "removeListener"])
def test_reserved_names_close(raw: RawSocket, name: str) -> None:
    raw.send(f'42["{name}"]')
    assert raw.close_code() == 1002


# -- acknowledgement


@pytest.mark.parametrize("id", ["0", "456", "999999999999"])
def test_an_event_with_an_id_is_acknowledged_with_it(raw: RawSocket, id: str) -> None:
    raw.send(f'42{id}["message-with-ack",1,"2",{{"3":[false]}}]')
    assert next_packet(raw) == f'43{id}[1,"2",{{"3":[false]}}]'


def test_an_acknowledgement_may_be_empty(raw: RawSocket) -> None:
    raw.send('421["message","x"]')
    assert {next_packet(raw), next_packet(raw)} == {'42["message-back","x"]', "431[]"}


def test_acknowledgements_may_be_binary(raw: RawSocket) -> None:
    raw.send(f'452-789["message-with-ack",{PLACES}]')
    raw.binary(b"\1\2\3")
    raw.binary(b"\4\5\6")
    assert [next_packet(raw) for _ in range(3)] == [f"462-789[{PLACES}]", b"\1\2\3", b"\4\5\6"]


def question(raw: RawSocket) -> str:
    """Have the server ask; the id under which it wants its answer."""
    raw.send('42["ask-me","how"]')
    packet = next_packet(raw)
    assert packet.endswith('["question","how"]')
    return str(packet[2:packet.index("[")])


def test_the_server_is_acknowledged(raw: RawSocket) -> None:
    raw.send(f'43{question(raw)}["well"]')
    assert next_packet(raw) == '42["answered","well"]'
    raw.send(f'461-{question(raw)}[{{"_placeholder":true,"num":0}}]')
    raw.binary(b"thus")
    assert [next_packet(raw), next_packet(raw)] == ['451-["answered",{"_placeholder":true,"num":0}]', b"thus"]


def test_an_acknowledgement_nobody_waits_for_changes_nothing(raw: RawSocket) -> None:
    raw.send("4312345[1]")
    alive(raw)
