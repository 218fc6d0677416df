"""Strict at the edge: sizes, frames, Engine.IO payloads, the number of connections.  Nobody else notices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.clients.fleet import Fleet, fresh, publish
from tests.clients.raw_client import RawPolling, RawSocket
from tests.cluster.bystander import counted, flat, undisturbed
from tests.harness import ROOT, Server, http, wait_until
from tests.tokens import GUARDED, auth, mint
from wsapp.settings import SPECS

pytestmark = [pytest.mark.cluster, pytest.mark.node]

# Where each limit of the settings is driven to its end: what is told, to whom, and what it costs the others.
AMOUNTS = "cluster/test_amounts.py::"
TESTS = {
    "MAX_CONNECTIONS": "cluster/test_limits.py::test_connections_beyond_the_limit_get_503",
    "MAX_EVENTS_PER_SEC": AMOUNTS + "too_many_wait", "WSAPP_HISTORY_SIZE": AMOUNTS + "history_of_many",
    "WSAPP_HISTORY_BYTES": AMOUNTS + "history_of_much", "WSAPP_HISTORY_AGE": AMOUNTS + "history_of_long_ago",
    "WSAPP_CRITICAL_ITEMS": AMOUNTS + "critical_events_that_nobody_acknowledges",
    "WSAPP_CRITICAL_ATTEMPTS": AMOUNTS + "critical_events_that_nobody_acknowledges",
    "WSAPP_QUEUE_ITEMS": AMOUNTS + "too_many_wait", "WSAPP_QUEUE_BYTES": AMOUNTS + "too_much_waits",
    "WSAPP_OUTBOX_BYTES": "cluster/test_flood.py::test_who_asks_for_much_and_reads_nothing_is_closed",
    "WSAPP_OUTBOX_AGE": "cluster/test_stream.py::test_answers_that_are_not_read_are_cut_off",
    "WSAPP_MAX_MESSAGE": "cluster/test_limits.py::test_giants_close_and_cost_nobody_anything",
    "WSAPP_HOST_MAX_MESSAGE": "cluster/test_rfc6455.py::test_a_giant_is_1009_by_its_header",
    "WSAPP_MAX_EVENT": AMOUNTS + "refused", "WSAPP_API_MAX_BODY": AMOUNTS + "refused",
    "WSAPP_MAX_ROOMS": "cluster/test_flood.py::test_rooms_of_a_session",
    "WSAPP_MAX_REPLAY": AMOUNTS + "a_long_replay",
    "WSAPP_MAX_CONNECTIONS_PER_USER": "cluster/test_flood.py::test_connections_of_a_user",
    "WSAPP_MAX_CONNECTIONS_PER_ADDRESS": "cluster/test_flood.py::test_connections_of_an_address",
    "WSAPP_MAX_HANDSHAKES_PER_SEC": "cluster/test_flood.py::test_handshakes_per_second",
    "WSAPP_MAX_TLS_HANDSHAKES_PER_SEC": "cluster/test_tls.py::"
                                        "test_a_flood_of_handshakes_is_refused_before_it_costs_anything",
    "WSAPP_REQUEST_TIMEOUT": "cluster/test_flood.py::test_a_slow_body_is_cut_off",
    "WSAPP_CONNECT_TIMEOUT": "cluster/test_flood.py::test_a_transport_that_joins_nothing_is_closed",
    "WSAPP_MAX_INBOUND_PER_SEC": "cluster/test_flood.py::test_events_over_the_rate_are_told",
    "WSAPP_MAX_INBOUND_PER_USER": "cluster/test_flood.py::test_one_user_with_many_sessions_is_one_user",
    "WSAPP_INBOX_BYTES": "cluster/test_flood.py::test_big_messages_wait_unhandled_up_to_a_limit",
}
OF_CLIENTS = re.compile(r"(?:WSAPP_)?(?:(?:HOST_)?MAX_|OUTBOX_|INBOX_|QUEUE_|HISTORY_(?!TTL)|REQUEST_TIMEOUT"
                        r"|CONNECT_TIMEOUT|API_MAX|CRITICAL_(?:ITEMS|ATTEMPTS))")


def test_every_limit_has_a_test() -> None:
    limits = {spec.env for spec in SPECS.values() if OF_CLIENTS.match(spec.env)}
    assert limits == TESTS.keys()
    for place in TESTS.values():
        file, _, function = place.partition("::")
        assert f"def {function}(" in (ROOT / "tests" / Path(file)).read_text(), place


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """One worker with the limits it has by default, which the misbehaving share with a bystander."""
    with Server(1, app="tests.apps.guarded:app", env=GUARDED) as server:
        yield server


@pytest.fixture(autouse=True)
def _watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """On the shared server somebody is watching, and memory stays flat."""
    if "cluster" not in request.fixturenames:
        yield
        return
    server: Server = request.getfixturevalue("cluster")
    agent = fresh("watched")
    with flat(server, 40e6), RawSocket(server) as bystander:
        assert bystander.request(json.dumps(["subscribe-agent", agent]))["ok"]
        yield
        [id] = publish(server, agent, 1)
        assert bystander.event("agent-thought")[0]["id"] == id


LONG, DEEP = "x" * 201, "[" * 65 + "]" * 65
REFUSED: list[tuple[str, Any, str]] = [
    ("update-metadata", {"a": "x" * 8200}, "at most 8192 bytes"),
    ("update-metadata", [1], "must be an object"),
    ("subscribe-agent", LONG, "at most 200 characters"),
    ("subscribe-task", {"id": LONG}, "at most 200 characters"),
    ("subscribe-agent", "", "must not be empty"),
    ("subscribe-agent", "a\nb", "control characters"),
    ("subscribe-agent", {"id": "a", "since": -1}, "must be a seq"),
    ("subscribe-agent", {"id": "a", "more": 1}, "Unknown field"),
    ("history", {"room": "agent:a", "limit": 1001}, "must be 1 to 1000"),
    ("history", {"room": "nowhere:a"}, "is no room"),
    ("set-rate", {"rate": 1e9}, "must be 0.01 to 1000000"),
    ("ack-event", LONG, "at most 200 characters"),
    ("refresh-token", "x" * 8193, "Length must be between 1 and 8192"),
]


@pytest.mark.parametrize(("event", "payload", "told"), REFUSED)
def test_what_is_too_much_is_named_and_costs_nobody_anything(guarded: Server, fleet: Fleet, event: str, payload: Any,
                                                             told: str) -> None:
    text = json.dumps([event, payload])
    with undisturbed(guarded, fleet), RawSocket(guarded, auth(fresh("clumsy"))) as raw:
        for _ in range(100):
            answer = raw.request(text)
            error = answer["error"]
            assert (answer["ok"], error["code"], error["retryable"]) == (False, "bad_payload", False)
            assert told in error["message"]
        assert raw.request('["host-echo",1]') == 1, "and it goes on"


@pytest.mark.parametrize(("event", "code"), [("no-such-event", "unknown_event"), ("connect", "reserved_event"),
                                             ("disconnect", "reserved_event"), ("x" * 5000, "unknown_event")])
def test_names_that_are_none(guarded: Server, fleet: Fleet, event: str, code: str) -> None:
    with undisturbed(guarded, fleet), RawSocket(guarded, auth(fresh("clumsy"))) as raw:
        for _ in range(100):
            assert raw.request(json.dumps([event, 1]))["error"]["code"] == code
        assert raw.request('["host-echo",1]') == 1


@pytest.mark.parametrize(("frames", "code"), [
    pytest.param([b"\x81\xff" + (2**40).to_bytes(8, "big") + b"mask only the header"], 1009, id="a giant's header"),
    pytest.param([("42" + "x" * 1_100_000).encode()], 1009, id="a message"),
    pytest.param([f'42["host-echo",{DEEP}]'.encode()], 1002, id="nesting"),
    pytest.param([b'4517-["host-echo"]'], 1002, id="attachments"),
    pytest.param([b'452-["host-echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
                  *[bytes(600_000)] * 2], 1002, id="attachments together"),
    pytest.param([b'451-["host-echo",{"_placeholder":true,"num":7}]', b"x"], 1002, id="a placeholder of nothing"),
])
def test_giants_close_and_cost_nobody_anything(guarded: Server, fleet: Fleet, frames: list[bytes], code: int) -> None:
    with undisturbed(guarded, fleet):
        for _ in range(10):
            with RawSocket(guarded, auth(fresh("giant"))) as raw:
                if frames[0].startswith(b"\x81"):
                    raw.bytes(frames[0])
                else:
                    _send(raw, frames)
                assert raw.close_code() == code


def _send(raw: RawSocket, frames: list[bytes]) -> None:
    try:
        for frame in frames:
            raw.send(frame.decode()) if frame.startswith(b"4") else raw._ws.send_binary(frame)
    except OSError:
        return  # closed while the rest was on its way


def test_posts_that_are_too_much(guarded: Server, fleet: Fleet) -> None:
    packets = "\x1e".join(['42["host-echo",1]'] * 5001)
    with undisturbed(guarded, fleet):
        for body, status in (("4" + "x" * 1_100_000, 413), (packets, 400), ("42" + "[" * 70, 400)):
            for _ in range(5):
                polling = RawPolling(guarded)
                polling.post("40" + json.dumps(auth(fresh("poster"))))
                polling.get()
                assert polling.post(body).status == status


def test_tokens_that_are_too_much(guarded: Server, fleet: Fleet) -> None:
    patterns = mint(rooms=[f"agent:{number}" for number in range(1001)])
    with undisturbed(guarded, fleet):
        for token in ("x" * 8193, patterns, mint(fresh("u") + "x" * 200)):
            for _ in range(20):
                raw = RawSocket(guarded, connect=False)
                raw.send("40" + json.dumps({"token": token}))
                assert json.loads(raw.packet("44")[2:])["data"]["code"] == "token_invalid"
                raw.close()


def test_oversize_message_closes_1009(cluster: Server) -> None:
    with RawSocket(cluster) as raw:
        assert raw.request('["update-metadata",{"a":"' + "x" * 8000 + '"}]')["ok"] is True
        raw.bytes(b"\x81\xff" + (2**33).to_bytes(8, "big") + b"mask" + b"only the header of a giant")
        assert raw.close_code() == 1009


def test_oversize_fragments_close_1009(cluster: Server) -> None:
    with RawSocket(cluster) as raw:
        part = "x" * (raw.opened["maxPayload"] // 4)
        raw.fragments("42" + part, part, part, part, part)
        assert raw.close_code() == 1009


def test_fragments_are_joined(cluster: Server) -> None:
    with RawSocket(cluster) as raw:
        raw.fragments('427["subscribe-', 'agent","a', '"]')
        assert '"ok":true' in raw.packet("437")


def test_unmasked_frame_closes_1002(cluster: Server) -> None:
    with RawSocket(cluster) as raw:
        raw.unmasked("2")
        assert raw.close_code() == 1002


@pytest.mark.parametrize(("frame", "code"), [
    (b"\xc1\x80mask", 1002),  # a reserved bit
    (b"\x83\x80mask", 1002),  # an opcode that does not exist
    (b"\x80\x80mask", 1002),  # a continuation of nothing
    (b"\x09\x80mask", 1002),  # a ping in fragments
    (b"\x81\x82\0\0\0\0\xc3\x28", 1007),  # text that is not UTF-8
])
def test_broken_frames_close_with_the_code_of_the_rfc(cluster: Server, frame: bytes, code: int) -> None:
    with RawSocket(cluster) as raw:
        raw.bytes(frame)
        assert raw.close_code() == code


def test_connections_beyond_the_limit_get_503(fleet: Fleet) -> None:
    env = {**GUARDED, "MAX_CONNECTIONS": "4", "WSAPP_CONNECT_TIMEOUT": "60"}
    with Server(1, app="tests.apps.guarded:app", env=env) as server:
        held: list[RawSocket] = []
        with undisturbed(server, fleet):
            held += [RawSocket(server, auth(fresh("one"))) for _ in range(3)]
            for _ in range(20):
                with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                    RawSocket(server, auth("another"))
                assert refused.value.status_code == 503
                polling = http(server.polling_url)
                assert polling.status == 503
                assert int(polling.headers["retry-after"]) > 0
                stream = http(f"{server.url}/api/v1/stream?rooms=agent:a",
                              headers={"Authorization": f"Bearer {mint('another')}"})
                assert (stream.status, stream.json()["code"]) == (503, "limit")
            assert server.get("/healthz").status == 200, "HTTP has room"
        assert counted(server, "connectionsRefused") == 60
        held.pop().close()
        agent = fresh("agent")
        client = wait_until(lambda: _opened(server), "room for one")
        client.close()
        late = fleet.npm(server, auth=auth("late"))
        late.subscribe("agent", agent)
        late.wait_ids(publish(server, agent, 1))
        for raw in held:
            raw.close()


def _opened(server: Server) -> RawSocket | None:
    try:
        return RawSocket(server, auth("another"))
    except websocket.WebSocketBadStatusException:
        return None


@pytest.mark.parametrize("body", ["zzz", "", "9", "42[", "42\x1e\x1e", b"\xff\xfe"])
def test_garbage_by_post_is_400(cluster: Server, body: str | bytes) -> None:
    polling = RawPolling(cluster)
    polling.post("40")
    polling.get()
    answer = polling.post(body)
    assert answer.status == 400


def test_too_many_packets_are_400_and_not_swallowed(cluster: Server) -> None:
    polling = RawPolling(cluster)
    polling.post("40")
    polling.get()
    assert polling.post("\x1e".join(['42["update-metadata",{"a":1}]'] * 5001)).status == 400


def test_a_post_of_a_giant_is_refused(cluster: Server) -> None:
    polling = RawPolling(cluster)
    assert polling.post("4" + "x" * 3_000_000).status in (400, 413)


@pytest.mark.parametrize("query", ["", "EIO=3&transport=polling", "EIO=4&transport=pigeon",
                                   "EIO=4&transport=polling&sid=nobody", "EIO=4&transport=websocket&sid=nobody"])
def test_wrong_requests_are_400(cluster: Server, query: str) -> None:
    assert http(f"{cluster.url}/socket.io/?{query}").status == 400


def test_foreign_origins_are_refused(cluster: Server) -> None:
    for url in (cluster.polling_url, cluster.url + "/socket.io/?EIO=4&transport=websocket"):
        assert http(url, headers={"Origin": "https://evil.example"}).status in (400, 403)
    own = http(cluster.polling_url, headers={"Origin": cluster.url})
    assert own.status == 200
