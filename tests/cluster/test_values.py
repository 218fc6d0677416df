"""Values that are no values: each is refused with a reason, and the bystander on the same worker notices nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.fleet import Fleet
from tests.clients.raw_client import RawSocket
from tests.cluster.bystander import undisturbed
from tests.harness import Server
from tests.tokens import GUARDED, auth
from wsapp.errors import PayloadError

pytestmark = [pytest.mark.cluster, pytest.mark.node]


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    with Server(1, app="tests.apps.guarded:app", env=GUARDED) as server:
        yield server


@pytest.mark.parametrize("seq", [2**64, True, -1, 1.5e300])
def test_a_position_that_redis_does_not_have(one: Server, fleet: Fleet, seq: object) -> None:
    """It went into the read that sessions which come at the same moment share, and made that fail for all of them."""
    with undisturbed(one, fleet):
        with RawSocket(one, auth("resumer")) as raw:
            assert raw.request('["subscribe-agent","a"]')["ok"]
            session = raw.told["pid"]
        raw = RawSocket(one, connect=False)
        positions = {"agent:a": {"epoch": "x", "seq": seq}}
        raw.send("40" + json.dumps({**auth("resumer"), "sessionId": session, "positions": positions}))
        told = json.loads(raw.packet("44")[2:])
        assert told["data"]["code"] == "bad_payload"
        assert "positions: agent:a: seq" in told["message"]
        with RawSocket(one, {**auth("resumer"), "sessionId": session}) as again:
            assert again.event("session")[0]["recovered"] is True, "and the session is still there"


def test_a_rate_without_an_interval(one: Server, fleet: Fleet) -> None:
    """It switched the throttle off, and kept the user for ever."""
    with undisturbed(one, fleet), RawSocket(one, auth("slow")) as raw:
        for rate in ("5e-324", "1e-300", "-1", "true"):
            assert raw.request(f'["set-rate",{{"rate":{rate}}}]')["error"]["code"] == "bad_payload"
        assert raw.request('["set-rate",{"rate":0.5}]') == {"ok": True, "rate": 0.5}


@pytest.mark.parametrize("algorithm", [["RS256"], {"a": 1}, None, 7])
def test_a_token_whose_algorithm_is_no_name(one: Server, fleet: Fleet, algorithm: Any) -> None:
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm}).encode()).rstrip(b"=").decode()
    with undisturbed(one, fleet):
        raw = RawSocket(one, connect=False)
        raw.send("40" + json.dumps({"token": f"{head}.e30.e30"}))
        assert json.loads(raw.packet("44")[2:])["data"]["code"] == "token_invalid"
    assert "Traceback" not in one.log_tail(10_000)


def test_data_deeper_than_clients_read(one: Server, fleet: Fleet) -> None:
    deep: Any = "x"
    for _ in range(970):
        deep = [deep]
    with undisturbed(one, fleet):
        emitter = one.emitter
        watcher = fleet.python(one, auth=auth("watcher"))
        watcher.subscribe("project", "p")
        with pytest.raises(PayloadError, match="at most 64"):
            emitter.broadcast_project_event("p", "deep", {"a": deep})
        emitter.broadcast_project_event("p", "flat", {"a": 1})
        watcher.wait_for("flat")
        assert watcher.request("history", {"room": "project:p"})["ok"] is True
