"""Strict at the edge: sizes, frames, Engine.IO payloads, the number of connections.  Nobody else notices."""

from __future__ import annotations

import pytest
import websocket

from tests.clients.fleet import Fleet, fresh, publish
from tests.clients.raw_client import RawPolling, RawSocket
from tests.harness import Server, http, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.node]


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
    with Server(1, env={"MAX_CONNECTIONS": "3"}) as server:
        held = [RawSocket(server) for _ in range(3)]
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            RawSocket(server)
        assert refused.value.status_code == 503
        polling = http(server.polling_url)
        assert polling.status == 503
        assert int(polling.headers["retry-after"]) > 0
        assert server.get("/healthz").status == 200, "HTTP has room"
        held.pop().close()
        agent = fresh("agent")
        client = wait_until(lambda: _opened(server), "room for one")
        client.close()
        late = fleet.npm(server)
        late.subscribe("agent", agent)
        late.wait_ids(publish(server, agent, 1))
        for raw in held:
            raw.close()


def _opened(server: Server) -> RawSocket | None:
    try:
        return RawSocket(server)
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
