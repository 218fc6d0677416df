"""Subscribing, leaving and history, as a client sees them."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.blueprints.conftest import Place
from tests.polling import PollingClient
from wsapp.blueprints import subscriptions as subscriptions_module
from wsapp.blueprints.subscriptions import History, Subscribe, subscriptions
from wsapp.core.events import Position
from wsapp.errors import BrokerUnavailable, PayloadError
from wsapp.runtime.inbound import Inbound

THOUGHT = {"agentId": "a", "thought": "x"}


def code(answer: dict[str, Any]) -> str:
    assert answer["ok"] is False
    return str(answer["error"]["code"])


def parse(event: str, payload: object) -> Any:
    schema = subscriptions.events[event].schema
    assert schema is not None
    return schema.parse(payload, event)


@pytest.mark.parametrize(("event", "payload", "request_"), [
    ("subscribe-agent", "coder", Subscribe("agent:coder")), ("subscribe-task", 5, Subscribe("task:5")),
    ("subscribe-task", {"id": "t", "since": 3}, Subscribe("task:t", Position("", 3))),
    ("subscribe-project", {"id": "p", "since": {"epoch": "e", "seq": 3}}, Subscribe("project:p", Position("e", 3))),
    ("subscribe-task", {"id": "t", "since": None, "presence": True}, Subscribe("task:t", presence=True)),
    ("unsubscribe-agent", {"id": "a"}, "agent:a"), ("unsubscribe-agent", "a", "agent:a"),
    ("history", {"room": "task:t"}, History("task:t")),
    ("history", {"room": "task:t", "since": 3, "before": 9, "limit": 5, "epoch": "e"},
     History("task:t", 3, 9, 5, "e"))])
def test_what_a_handler_gets(event: str, payload: object, request_: object) -> None:
    assert parse(event, payload) == request_


@pytest.mark.parametrize(("event", "payload", "field"), [
    ("subscribe-agent", None, "id"), ("subscribe-agent", [], "id"), ("subscribe-agent", {}, "id"),
    ("subscribe-agent", {"id": "a", "sinc": 1}, "sinc"), ("subscribe-agent", {"id": "a", "since": -1}, "since"),
    ("subscribe-agent", {"id": "a", "since": "1"}, "since"),
    ("subscribe-agent", {"id": "a", "since": {"seq": 1}}, "since"), ("unsubscribe-task", {"id": ""}, "id"),
    ("history", {}, "room"), ("history", {"room": "x"}, "room"),
    ("history", {"room": "task:t", "limit": 1001}, "limit"), ("history", {"room": "task:t", "limit": 0}, "limit"),
    ("history", "task:t", "payload")])
def test_a_wrong_field_is_named(event: str, payload: object, field: str) -> None:
    with pytest.raises(PayloadError, match=event) as caught:
        parse(event, payload)
    assert caught.value.told()["fields"] == caught.value.fields
    assert set(caught.value.fields) == {field}


@pytest.mark.parametrize(("event", "payload"), [
    ("subscribe-agent", "*"), ("subscribe-task", {"id": "team-*"}), ("history", {"room": "agent:a*b"})])
def test_a_pattern_is_no_room(event: str, payload: object) -> None:
    with pytest.raises(PayloadError, match="only grants of rights take: name each room"):
        parse(event, payload)


@pytest.mark.parametrize("kind", ["agent", "task", "project"])
def test_each_kind_is_subscribed_and_left(place: Place, kind: str) -> None:
    client = place.client()
    told = client.ask(f"subscribe-{kind}", "x")
    assert (told["ok"], told["room"], told["seq"]) == (True, f"{kind}:x", 0)
    assert client.ask(f"unsubscribe-{kind}", "x") == {"ok": True, "room": f"{kind}:x"}
    assert code(client.ask(f"unsubscribe-{kind}", "x")) == "not_subscribed"


def test_the_acknowledgement_comes_before_the_replay_and_the_replay_before_what_is_live(place: Place) -> None:
    receipts = [place.server.broadcast_agent_thought({"agentId": "a", "thought": str(n)}) for n in range(3)]
    client = place.client()
    since = {"epoch": receipts[0].places[0].epoch, "seq": 1}
    told = client.ask("subscribe-agent", {"id": "a", "since": since})
    assert [event for event in client.events if event[0] == "agent-thought"] == []
    assert told == {"ok": True, "room": "agent:a", "epoch": since["epoch"], "seq": 3, "recovered": True, "missed": 2}
    place.server.broadcast_agent_thought({"agentId": "a", "thought": "3"})
    assert [data["thought"] for data in client.of("agent-thought")] == ["1", "2", "3"]


def test_a_refused_position_is_told(place: Place) -> None:
    for _ in range(3):
        place.server.broadcast_agent_thought(THOUGHT)
    client = place.client()
    told = client.ask("subscribe-agent", {"id": "a", "since": {"epoch": "another", "seq": 1}})
    assert (told["recovered"], told["reason"], told["missed"], told["seq"]) == (False, "epoch", 3, 3)
    assert client.of("agent-thought") == []


def test_subscribing_twice_delivers_once(place: Place) -> None:
    client = place.client()
    client.ask("subscribe-agent", "a")
    assert client.ask("subscribe-agent", "a")["ok"] is True
    place.server.broadcast_agent_thought(THOUGHT)
    assert len(client.of("agent-thought")) == 1


def test_after_leaving_nothing_comes(place: Place) -> None:
    client = place.client()
    client.ask("subscribe-agent", "a")
    client.ask("unsubscribe-agent", "a")
    place.server.broadcast_agent_thought(THOUGHT)
    assert client.of("agent-thought") == []


@pytest.mark.parametrize("payload", [None, "", [], {"id": ""}, {"id": "a", "more": 1}, {"id": "a", "since": -1}])
def test_a_bad_payload_is_told(place: Place, payload: object) -> None:
    assert code(place.client().ask("subscribe-agent", payload)) == "bad_payload"


def test_rooms_are_limited_but_not_joining_again(place: Place) -> None:
    client = place.client()
    for number in range(3):
        client.ask("subscribe-agent", str(number))
    assert code(client.ask("subscribe-agent", "3")) == "limit"
    assert client.ask("subscribe-agent", "0")["ok"] is True


def test_a_hook_may_refuse(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.server.on_subscribe(lambda _session, room: room != "agent:secret")
    client = place.client()
    assert code(client.ask("subscribe-agent", "secret")) == "forbidden"
    assert client.ask("subscribe-agent", "a")["ok"] is True
    assert place.server.connections.get_room_connections("agent:secret") == []
    [line] = [line.getMessage() for line in caplog.records if line.name == "wsapp.audit"]
    assert line.endswith("action=read room='agent:secret': by a hook")


def test_a_client_that_is_gone_before_it_could_be_saved_is_no_fault(place: Place, monkeypatch: pytest.MonkeyPatch,
                                                                    caplog: pytest.LogCaptureFixture) -> None:
    client = place.client()
    [session] = place.server.connections.sessions()

    def gone(_session: object) -> None:
        place.server.connections.forget(session.sid)
        raise BrokerUnavailable("away")

    monkeypatch.setattr(place.server.hub.lifecycle, "save", gone)
    assert code(client.ask("subscribe-agent", "a")) == "broker_unavailable"
    assert not session.subs
    assert "failed" not in caplog.text


def test_a_subscription_that_could_not_be_saved_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would hold what comes for ever, and never pass it on."""
    def away(_session: object) -> None:
        raise BrokerUnavailable("away")

    client = place.client()
    with monkeypatch.context() as patch:
        patch.setattr(place.server.hub.lifecycle, "save", away)
        assert code(client.ask("subscribe-agent", "a")) == "broker_unavailable"
    assert place.server.connections.get_room_connections("agent:a") == []
    assert client.ask("subscribe-agent", "a")["ok"] is True
    place.server.broadcast_agent_thought(THOUGHT)
    assert len(client.of("agent-thought")) == 1


class TestLists:
    """Several rooms in one request: each has its own answer, and all of them one write."""

    def test_each_room_has_its_answer(self, place: Place) -> None:
        place.server.on_subscribe(lambda _session, room: room != "agent:secret")
        client = place.client()
        answer = client.ask("subscribe-agent", ["a", {"id": ""}, "secret", {"id": "b", "presence": True}, "a"])
        assert answer["ok"] is True
        joined, malformed, secret, other, twice = answer["rooms"]
        assert (joined["ok"], joined["room"], joined["seq"]) == (True, "agent:a", 0)
        assert (other["ok"], other["room"], other["presence"]["users"]) == (True, "agent:b", 1)
        assert [code(one) for one in (malformed, secret, twice)] == ["bad_payload", "forbidden", "bad_payload"]
        place.server.broadcast_agent_thought(THOUGHT)
        place.server.broadcast_agent_thought({"agentId": "secret", "thought": "no"})
        assert [data["agentId"] for data in client.of("agent-thought")] == ["a"]

    def test_a_refused_position_takes_nothing_from_the_others(self, place: Place) -> None:
        receipts = [place.server.broadcast_agent_thought({"agentId": agent, "thought": str(number)})
                    for number in range(3) for agent in ("a", "b")]
        since = {"epoch": receipts[0].places[0].epoch, "seq": 1}
        client = place.client()
        answer = client.ask("subscribe-agent", [{"id": "a", "since": since},
                                                {"id": "b", "since": {"epoch": "another", "seq": 1}}])
        assert [(one["recovered"], one["missed"], one.get("reason")) for one in answer["rooms"]] == [
            (True, 2, None), (False, 3, "epoch")]
        assert [(data["agentId"], data["thought"]) for data in client.of("agent-thought")] == [("a", "1"), ("a", "2")]
        place.server.broadcast_agent_thought({"agentId": "b", "thought": "live"})
        assert client.of("agent-thought")[-1]["thought"] == "live"

    def test_an_event_of_several_rooms_comes_once(self, place: Place) -> None:
        for number in range(3):
            place.server.broadcast_agent_thought({"agentId": "a", "thought": str(number)}, also_to=["agent:b"])
        client = place.client()
        answer = client.ask("subscribe-agent", [{"id": "b", "since": 0}, {"id": "a", "since": 1}])
        assert [one["missed"] for one in answer["rooms"]] == [3, 2]
        assert [data["thought"] for data in client.of("agent-thought")] == ["0", "1", "2"]

    def test_the_limit_of_rooms_holds_within_a_list(self, place: Place) -> None:
        client = place.client()
        client.ask("subscribe-agent", "a")
        answer = client.ask("subscribe-agent", ["a", "b", "c", "d"])
        assert [one["ok"] for one in answer["rooms"]] == [True, True, True, False]
        assert code(answer["rooms"][3]) == "limit"

    def test_one_write_and_one_read_for_all(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        client, saved, read = place.client(), [], []
        save, broker = place.server.hub.lifecycle.save, place.server.hub.delivery.broker
        reading = broker.read
        monkeypatch.setattr(place.server.hub.lifecycle, "save", lambda session: (saved.append(session), save(session)))
        monkeypatch.setattr(broker, "read", lambda queries: (read.append(len(queries)), reading(queries))[1])
        assert [one["ok"] for one in client.ask("subscribe-agent", ["a", "b", "c"])["rooms"]] == [True] * 3
        assert (len(saved), read) == (1, [3])
        assert [one["ok"] for one in client.ask("unsubscribe-agent", ["a", "never", "b"])["rooms"]] == [
            True, False, True]
        assert len(saved) == 2

    def test_the_presence_of_several_rooms_is_asked_for_at_once(self, place: Place,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker that does not answer costs one wait, not one for each room."""
        running: list[str] = []
        together: list[int] = []

        def ask(_verb: str, room: str) -> None:
            running.append(room)
            together.append(len(running))
            gevent.sleep(0.01)
            running.remove(room)

        monkeypatch.setattr(place.server.hub.presence.calls, "ask", ask)
        client = place.client()
        answer = client.ask("subscribe-agent", [{"id": str(number), "presence": True} for number in range(3)])
        assert [one["presence"]["users"] for one in answer["rooms"]] == [1, 1, 1]
        assert together == [1, 2, 3]

    def test_leaving_several(self, place: Place) -> None:
        client = place.client()
        client.ask("subscribe-agent", ["a", "b", "c"])
        answer = client.ask("unsubscribe-agent", ["a", {"id": "b"}, "x", {}])
        assert answer["rooms"][:2] == [{"ok": True, "room": "agent:a"}, {"ok": True, "room": "agent:b"}]
        assert [code(one) for one in answer["rooms"][2:]] == ["not_subscribed", "bad_payload"]
        [session] = place.server.connections.sessions()
        assert list(session.subs) == ["agent:c"]

    @pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
    def test_a_list_has_one_to_a_hundred_items(self, place: Place, verb: str) -> None:
        client = place.client()
        refused = client.ask(f"{verb}-agent", [str(number) for number in range(101)])
        assert code(refused) == "bad_payload"
        assert "1 to 100 items, has 101" in refused["error"]["message"]
        assert len(client.ask(f"{verb}-agent", [str(number) for number in range(100)])["rooms"]) == 100

    def test_a_list_counts_as_more_than_one_packet(self, place: Place) -> None:
        client = place.client()
        place.server.hub.inbound = Inbound(1.0, 0.0)  # ten packets at once
        assert code(client.ask("subscribe-agent", [str(number) for number in range(100)])) == "rate_limited"
        [session] = place.server.connections.sessions()
        assert not session.subs
        place.server.hub.inbound = Inbound(1.0, 0.0)
        assert client.ask("subscribe-agent", [str(number) for number in range(80)])["ok"] is True


class TestHistory:
    def watcher(self, place: Place, count: int) -> PollingClient:
        client = place.client()
        client.ask("subscribe-agent", "a")
        for number in range(count):
            place.server.broadcast_agent_thought({"agentId": "a", "thought": str(number)})
        return client

    def test_a_page_is_bounded_in_bytes_and_goes_on(self, place: Place) -> None:
        client = place.client()
        client.ask("subscribe-agent", "big")
        for number in range(12):
            place.server.broadcast_agent_thought({"agentId": "big", "thought": "x" * 60_000, "n": number})
        told = client.ask("history", {"room": "agent:big", "since": 0, "limit": 1000})
        seqs = [event["seq"] for event in told["events"]]
        assert seqs == [1, 2, 3, 4] and told["seq"] == 12
        assert told["events"][0]["data"]["n"] == 0
        after = client.ask("history", {"room": "agent:big", "since": 4, "limit": 1000})
        assert after["events"][0]["seq"] == 5

    def test_an_event_larger_than_a_page_is_a_page(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(subscriptions_module, "MAX_PAGE", 10)
        assert len(self.watcher(place, 5).ask("history", {"room": "agent:a", "limit": 3})["events"]) == 1

    def test_what_it_reads_counts_as_packets(self, place: Place) -> None:
        client = place.client()
        client.ask("subscribe-agent", "big")
        for number in range(60):
            place.server.broadcast_agent_thought({"agentId": "big", "thought": "x" * 60_000, "n": number})
        answers = [client.ask("history", {"room": "agent:big", "limit": 1000}) for _ in range(40)]
        refused = [told for told in answers if not told["ok"]]
        assert len(refused) >= 10 and {code(told) for told in refused} == {"rate_limited"}

    def test_forwards(self, place: Place) -> None:
        told = self.watcher(place, 5).ask("history", {"room": "agent:a", "since": 1, "limit": 2})
        assert (told["ok"], told["seq"], told["first"]) == (True, 5, 1)
        assert [event["seq"] for event in told["events"]] == [2, 3]
        assert told["events"][0]["event"] == "agent-thought"
        assert told["events"][0]["data"]["thought"] == "1"
        assert told["events"][0]["id"] < told["events"][1]["id"]

    def test_backwards_from_the_newest_and_from_a_position(self, place: Place) -> None:
        client = self.watcher(place, 5)
        newest = client.ask("history", {"room": "agent:a", "limit": 2})
        before = client.ask("history", {"room": "agent:a", "limit": 2, "before": 4})
        assert [[event["seq"] for event in told["events"]] for told in (newest, before)] == [[5, 4], [3, 2]]

    def test_between_two_positions(self, place: Place) -> None:
        told = self.watcher(place, 5).ask("history", {"room": "agent:a", "since": 1, "before": 4})
        assert [event["seq"] for event in told["events"]] == [2, 3]

    def test_another_epoch_is_not_found(self, place: Place) -> None:
        client = self.watcher(place, 1)
        assert code(client.ask("history", {"room": "agent:a", "since": 0, "epoch": "another"})) == "not_found"

    def test_only_members_read_it(self, place: Place) -> None:
        assert code(place.client().ask("history", {"room": "agent:a"})) == "not_subscribed"
