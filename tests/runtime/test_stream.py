"""Frames to lines, and the id of a stream."""

from __future__ import annotations

import json
import random

import gevent
import pytest

from tests.runtime.world import World
from wsapp.core.catch_up import Pace
from wsapp.core.events import Position, Profile, packet
from wsapp.errors import PayloadError
from wsapp.runtime.stream import Item, StreamPeer, items_of, read_id
from wsapp.transport.frames import Frame

ROOMS = ("agent:a", "task:t")


def meta(**rooms: int) -> dict[str, object]:
    return {"id": "1", "ts": 1, "epoch": "e", "rooms": {name.replace("_", ":"): seq for name, seq in rooms.items()}}


def peer(max_bytes: int = 10_000) -> StreamPeer:
    made = StreamPeer("sid", ROOMS, max_bytes, lambda: None)
    made.begin({"missed": 0}, {room: Position("e", 0) for room in ROOMS})
    return made


def lines(made: StreamPeer) -> list[str]:
    """What is written now."""
    return next(made.lines(0.001, lambda: None)).decode().split("\n")


def test_frames_are_taken_apart_without_touching_the_data() -> None:
    told = b'{"epoch":"e","rooms":{"agent:a":3},"epochs":{"agent:a":"f"}}'
    frame = Frame(b'42["built",{"n":1.50,"t":"\xc3\xbc]"},' + told + b"]")
    assert items_of(frame) == [Item("built", '{"n":1.50,"t":"ü]"}', (("agent:a", Position("f", 3)),))]
    batch = Frame(packet("batch", [["a", 1, meta(agent_a=1)], ["b", None, meta(task_t=2)]]))
    assert [item.event for item in items_of(batch)] == ["a", "b"]
    assert items_of(Frame(packet("mode", {"mode": "normal"}))) == [Item("mode", '{"mode":"normal"}')]
    assert items_of(Frame(packet("gone"))) == [Item("gone", "null")]
    for other in (b"2", b"41", b"430[1]"):
        assert items_of(Frame(other)) == []


def test_the_id_moves_with_what_is_sent() -> None:
    made = peer()
    assert lines(made)[:3] == ["retry: 2000", "id: 0@e,0@e", "event: session"]
    made.push(Frame(packet("x", 1, meta(agent_a=4))))
    assert lines(made) == ["id: 4@e,0@e", "event: x", "data: 1", "", ""]
    made.push(Frame(packet("batch", [["y", 1, meta(agent_a=6)], ["z", 2, meta(agent_a=5, task_t=1, other=9)]])))
    assert lines(made) == ["event: y", "data: 1", "", "id: 6@e,1@e", "event: z", "data: 2", "", ""]
    made.push(Frame(packet("resync", {"room": "agent:a", "epoch": "f", "seq": 2, "reason": "epoch", "missed": 1})))
    assert lines(made)[0] == "id: 2@f,1@e"
    made.push(Frame(packet("shed", {"room": "agent:a"})))
    assert lines(made)[0] == "event: shed"


def shed(room: str, last: int, reason: str = "catch-up") -> Frame:
    return Frame(packet("shed", {"room": room, "from": 1, "to": last, "count": 2, "reason": reason,
                                 "worstPriority": 5}))


@pytest.mark.parametrize(("state", "after"), [(3, 7), (9, 9)])
def test_the_place_stands_still_until_it_is_told_what_was_left_out(state: int, after: int) -> None:
    made = StreamPeer("sid", ROOMS, 10_000, lambda: None)
    made.begin({"missed": 20}, {room: Position("e", 0) for room in ROOMS}, {"agent:a"})
    lines(made)
    made.push(Frame(packet("state", 1, meta(agent_a=state, task_t=4))))
    made.push(shed("agent:a", 1, "rate"))
    assert [line for line in lines(made) if "id:" in line] == ["id: 0@e,4@e"]
    made.push(shed("agent:a", 7))
    assert lines(made)[0] == f"id: {after}@e,4@e"
    made.push(shed("task:t", 90))
    assert lines(made)[0] == "event: shed", "nothing was to be told there"
    made.push(Frame(packet("note", 1, meta(agent_a=10))))
    assert lines(made)[0] == "id: 10@e,4@e"


@pytest.mark.parametrize("pace", [Pace(10, 4), Pace(10, 0), Pace(25, 7), Pace(0, 0)])
@pytest.mark.parametrize("seed", range(5))
def test_whoever_comes_back_from_any_line_loses_nothing_that_was_not_told(pace: Pace, seed: int) -> None:
    world, chance = World(), random.Random(seed)
    rooms = ("project:p", "agent:a")
    places = [_published(world, chance, number) for number in range(60)]
    made = StreamPeer("sid", rooms, 1_000_000, lambda: None)
    session = world.connections.handle_connection("sid", made, None, profile=Profile.SDK)
    heads = world.broker.heads(rooms)
    since = {room: Position(heads[room].epoch, 0) for room in rooms}
    recovery = world.join(session, dict(since))
    recovery.pace(pace)
    made.session = session
    made.begin({}, since, recovery.untold)
    recovery.release()
    assert not recovery.untold, "all is told"
    had, told, at = set[str](), dict[str, range](), dict.fromkeys(rooms, 0)
    for text in next(made.lines(0.001, lambda: None)).decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in text.split("\n"))
        data = json.loads(fields["data"])
        if "id" in fields:
            at = {room: position.seq for room, position in read_id(fields["id"], rooms).items()}
        if fields["event"] == "shed":
            told[data["room"]] = range(data["from"], data["to"] + 1)
        elif "id" in data:
            had.add(data["id"])
        for id, seqs in places:
            assert id in had or any(seq > at[room] or seq in told.get(room, ()) for room, seq in seqs.items()), text
    assert at == {room: heads[room].seq for room in rooms}
    world.close()


def _published(world: World, chance: random.Random, number: int) -> tuple[str, dict[str, int]]:
    """Something for one of the rooms or both; its id, and where it is in them."""
    kind, more = chance.random(), {"priority": 9} if chance.random() < 0.1 else {}
    if kind < 0.4:
        receipt = world.task(number % 100, f"t{chance.randrange(4)}", also_to=["project:p"], **more)
    elif kind < 0.7:
        receipt = world.thought(number, also_to=["project:p"], **more)
    elif kind < 0.85:
        receipt = world.thought(number, **more)
    else:
        receipt = world.publisher.broadcast_project_event("p", "note", {"n": number}, **more)
    return receipt.id, {place.room: place.seq for place in receipt.places if not place.room.startswith("task:")}


def test_a_room_that_begins_anew_meanwhile() -> None:
    made = StreamPeer("sid", ROOMS, 10_000, lambda: None)
    made.begin({}, {room: Position("e", 0) for room in ROOMS}, {"agent:a"})
    lines(made)
    made.push(Frame(packet("resync", {"room": "agent:a", "epoch": "f", "seq": 2, "reason": "epoch", "missed": 1})))
    assert lines(made)[0] == "id: 0@e,0@e", "whoever comes back from there is told"
    made.push(shed("agent:a", 7))
    assert lines(made)[0] == "id: 2@f,0@e"


def test_silence_is_a_comment() -> None:
    made = peer()
    lines(made)
    assert lines(made) == [": ", "", ""]


def test_a_close_is_the_last_event() -> None:
    made = peer()
    made.push(Frame(packet("server-shutdown", {"retryAfterMs": 70})))
    made.close(1012, "bye")
    made.push(Frame(packet("late", 1)))
    made.close(1000, "again")
    written = b"".join(made.lines(0.001, lambda: None)).decode()
    assert "retry: 70\nevent: server-shutdown" in written
    assert written.endswith('event: session-closed\ndata: {"code":1012,"reason":"bye"}\n\n')
    assert "late" not in written


def test_who_was_told_why_is_not_told_twice() -> None:
    made = peer()
    made.push(Frame(packet("session-closed", {"code": 4501, "reason": "token_revoked"})))
    made.close(4501, "token_revoked")
    assert b"".join(made.lines(0.001, lambda: None)).count(b"session-closed") == 1


def test_a_full_queue_ends_the_stream() -> None:
    cut: list[bool] = []
    made = StreamPeer("sid", ROOMS, 1000, lambda: cut.append(True))
    made.begin({}, {room: Position("e", 0) for room in ROOMS})
    for _ in range(100):
        made.push(Frame(packet("x", "y" * 100)))
    assert made.closed
    assert made.backlog() < 1500, "nothing more is taken"


def test_who_does_not_read_is_told_that_and_nothing_else() -> None:
    made = peer(max_bytes=1000)
    for _ in range(100):
        made.push(Frame(packet("x", "y" * 100)))
    assert b"".join(made.lines(0.001, lambda: None)).startswith(b'event: session-closed\ndata: {"code":4000')


def test_what_is_handed_over_at_once_is_bounded() -> None:
    made = peer(max_bytes=1_000_000)
    for _ in range(9):
        made.push(Frame(packet("x", "y" * 20_000)))
    before = made.backlog()
    next(made.lines(0.001, lambda: None))
    assert 60_000 < before - made.backlog() < 100_000


def test_a_critical_event_asks_for_its_acknowledgement() -> None:
    made = peer()
    lines(made)
    made.push(Frame(packet("deployed", 7, {**meta(agent_a=1), "critical": True})))
    assert lines(made) == ["id: 1@e,0@e", "event: deployed", "data: 7", "", "event: ack-wanted",
                           'data: {"id":"1","event":"deployed"}', "", ""]


def test_what_is_told_early_follows_the_beginning() -> None:
    made = StreamPeer("sid", ROOMS, 10_000, lambda: None)
    made.push(Frame(packet("mode", {"mode": "degraded"})))
    made.begin({}, {room: Position("e", 0) for room in ROOMS})
    assert [line for line in lines(made) if line.startswith("event")] == ["event: session", "event: mode"]


def test_nothing_is_written_to_who_has_gone() -> None:
    made = peer()
    made.gone()
    assert list(made.lines(0.001, lambda: None)) == []


def test_alive_after_each_write() -> None:
    made, alive = peer(), []
    found = made.lines(0.001, lambda: alive.append(True))
    next(found)
    assert not alive
    gevent.spawn(made.push, Frame(packet("x", json.loads("1"))))
    next(found)
    assert alive == [True]


@pytest.mark.parametrize(("text", "places"), [
    ("3@e,0@", [Position("e", 3), Position("", 0)]), ("3@e", None), ("3@e,4@e,5@e", None), ("a@e,1@e", None),
    ("-1@e,1@e", None), ("1@e e,1@e", None), ("", None)])
def test_ids_are_read_back(text: str, places: list[Position] | None) -> None:
    if places is None:
        with pytest.raises(PayloadError):
            read_id(text, ROOMS)
    else:
        assert read_id(text, ROOMS) == dict(zip(ROOMS, places, strict=True))
