"""From a publication to the members' sockets: order, slices, the throttle, clients that do not read."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from dataclasses import replace

import gevent

from tests.runtime.world import RecordingPeer, World, eventually, numbers, peer, thoughts
from wsapp.core.events import Placed, Profile, publish_draft
from wsapp.core.ports import HistoryQuery
from wsapp.runtime.fanout import FEW, SLICE
from wsapp.transport.deflate import deflate, inflate
from wsapp.transport.frames import Frame
from wsapp.transport.outbox import CROWDED, RELIEVED, Outbox


class Wired(RecordingPeer):
    """A peer with a real socket that the fan-out writes to directly; `far` is the client's end."""

    def __init__(self, sid: str, max_bytes: int = 50_000_000) -> None:
        super().__init__(sid)
        near, self.far = socket.socketpair()
        for end in (near, self.far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            end.setblocking(False)
        self.full: list[str] = []
        self.seen = b""
        self.direct = Outbox(near, lambda _data: None, lambda _reason: None, max_bytes, 30.0,
                             lambda: self.full.append(sid))

    def push(self, frame: Frame) -> None:
        self.direct.write(frame.ws)

    def backlog(self) -> int:
        return self.direct.waiting_bytes

    def reads(self) -> bool:
        return self.backlog() < RELIEVED

    def lag(self, size: int) -> bool:
        self.direct.lag(size)
        return self.direct.far_behind

    def read(self) -> bytes:
        """All that is there."""
        found = b""
        while True:
            try:
                data = self.far.recv(65536)
            except BlockingIOError:
                return found
            found += data

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        self.direct.abort(reason)


def wired(world: World, name: str, max_bytes: int = 50_000_000) -> Wired:
    """A member of agent:a with a real socket."""
    own = Wired(name, max_bytes)
    session = world.connections.handle_connection(name, own)
    own.direct.on_route = lambda: session.rerouted(own.direct)
    world.join(session, {"agent:a": None}).release()
    return own


def drained(own: Wired) -> bytes:
    """Read as a client does until the outbox is empty."""
    found = own.read()
    while own.direct.waiting_bytes:
        gevent.sleep(0.001)
        found += own.read()
    return found + own.read()


def texts(own: Wired) -> list[str]:
    """The thoughts that came so far, from the bytes of the socket."""
    own.seen += own.read()
    return [text.decode() for text in re.findall(rb'"thought":"(\w*)"', own.seen)]


def counted(send: Callable[[bytes], int] | None, calls: list[int]) -> Callable[[bytes], int]:
    """`send`, with the sizes of its calls written down."""
    assert send is not None

    def counting(data: bytes) -> int:
        calls.append(len(data))
        return send(data)

    return counting


def test_one_frame_object_serves_all_of_a_profile(world: World) -> None:
    plain = [world.client("agent:a") for _ in range(3)]
    sdk = [world.client("agent:a", profile=Profile.SDK) for _ in range(2)]
    receipt = world.thought("x")
    assert len({id(peer(session).frames[0]) for session in plain}) == 1
    assert len({id(peer(session).frames[0]) for session in sdk}) == 1
    [[_, data, meta]] = peer(sdk[0]).events
    assert data["seq"] == 1
    assert (meta["id"], meta["rooms"]) == (receipt.id, {"agent:a": 1})


def test_a_large_room_is_served_in_slices_without_changing_the_order(world: World) -> None:
    sessions = [world.client("agent:a") for _ in range(2 * SLICE + 10)]
    world.run(world.fanout.run)
    for number in range(5):
        world.thought(number)
    eventually(lambda: len(thoughts(sessions[-1])) == 5)
    assert all(thoughts(session) == numbers(5) for session in sessions)


def test_a_small_room_does_not_wait_for_all_of_a_large_one(world: World) -> None:
    large = [world.client("agent:a") for _ in range(4 * SLICE)]
    small = world.client("agent:b")
    for number in range(10):
        world.thought(number)
    world.thought("x", agent="b")
    served: list[tuple[int, int]] = []
    first, last, keep = peer(large[0]), peer(large[-1]), peer(small).push
    small.peer.push = lambda frame: (  # type: ignore[method-assign]
        served.append((len(first.frames), len(last.frames))), keep(frame))
    world.run(world.fanout.run)
    eventually(lambda: len(last.frames) == 10)
    assert served == [(10, 0)]


def test_one_room_keeps_its_order_while_its_members_come_and_go(world: World) -> None:
    sessions = [world.client("agent:a") for _ in range(SLICE + 1)]
    world.run(world.fanout.run)
    world.thought(0)
    late = world.client("agent:a")
    world.registry.leave(sessions[0], "agent:a")
    world.thought(1)
    eventually(lambda: thoughts(late) == ["1"] and len(thoughts(sessions[-1])) == 2)
    assert thoughts(sessions[0]) in ([], ["0"])


def test_a_session_that_has_gone_leaves_nothing_in_the_throttle(throttled: World) -> None:
    """Its slice comes after it was disconnected."""
    sessions = [throttled.client("agent:a", user=f"u{number}") for number in range(SLICE + 1)]
    for number in range(4):
        throttled.thought(number)
    throttled.connections.handle_disconnection(sessions[-1].sid)
    throttled.run(throttled.fanout.run)
    eventually(lambda: not throttled.registry.rooms["agent:a"].queued)
    assert throttled.throttler.get_queue_depth(f"u{SLICE}") == 0


def test_thoughts_over_the_rate_come_as_one_array_for_plain_clients(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    for number in range(7):
        throttled.thought(number)
    throttled.throttler.flush(throttled.clock() + 1)
    assert [type(data) for data in peer(session).of("agent-thought")] == [dict, dict, list]
    assert thoughts(session) == numbers(7)
    assert [data["seq"] for data in peer(session).of("agent-thought")[2]] == [3, 4, 5, 6, 7]


def test_a_task_over_the_rate_comes_as_its_latest(throttled: World) -> None:
    session = throttled.client("task:t", user="u")
    for number in range(7):
        throttled.task(number)
    throttled.throttler.flush(throttled.clock() + 1)
    assert [data["progress"] for data in peer(session).of("task-update")] == [0, 1, 6]


def test_the_sdk_gets_one_batch_for_all_that_waits(throttled: World) -> None:
    session = throttled.client("agent:a", "task:t", user="u", profile=Profile.SDK)
    for number in range(4):
        throttled.thought(number)
        throttled.task(number)
    throttled.throttler.flush(throttled.clock() + 1)
    assert [event[0] for event in peer(session).events] == ["agent-thought", "task-update", "batch"]
    [batch] = peer(session).of("batch")
    assert {name for name, _, _ in batch} == {"agent-thought", "task-update"}
    assert thoughts(session) == numbers(4)
    assert all(meta["rooms"] for _, _, meta in batch)


def test_waiting_sessions_with_the_same_content_share_the_frame(throttled: World) -> None:
    one, two = throttled.client("agent:a", user="u"), throttled.client("agent:a", user="v")
    for number in range(5):
        throttled.thought(number)
    throttled.throttler.flush(throttled.clock() + 1)
    assert peer(one).frames[-1] is peer(two).frames[-1]


def test_what_is_shed_is_told_and_adds_up(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    for number in range(20):
        throttled.thought(number)
    throttled.pass_time(1)
    throttled.throttler.flush(throttled.clock())
    sheds = peer(session).of("shed")
    assert {shed["reason"] for shed in sheds} == {"items"}
    assert sum(shed["count"] for shed in sheds) + len(thoughts(session)) == 20
    gone = {seq for shed in sheds for seq in range(shed["from"], shed["to"] + 1)}
    assert gone == set(range(3, 13))
    assert throttled.metrics.shed == 10


def test_critical_events_do_not_wait(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    for number in range(4):
        throttled.thought(number)
    throttled.thought("fire", priority=9)
    assert thoughts(session) == ["0", "1", "fire"]


def test_the_flush_loop_sends_what_waits(throttled: World) -> None:
    session = throttled.client("agent:a", user="u")
    throttled.run(throttled.fanout.flusher.run)
    gevent.sleep(0)
    for number in range(4):
        throttled.thought(number)
    eventually(lambda: len(thoughts(session)) == 4)
    assert thoughts(session) == numbers(4)


def test_an_unrecorded_publication_is_not_sent_again_when_it_is_recorded(world: World) -> None:
    one, two = world.client("agent:a"), world.client("agent:a", "project:p")
    draft = world.publisher.thought({"agentId": "a", "thought": "away"}, also_to=["project:p"])
    unplaced = tuple(Placed(room, 0, "") for room in draft.rooms)
    world.fanout.serve_unrecorded(publish_draft(replace(draft, flags="i"), unplaced))
    late = world.client("agent:a")
    [receipt] = world.backend.broker.publish([draft])
    world.thought("after")
    assert receipt.id == draft.id
    assert thoughts(one) == thoughts(two) == ["away", "after"]
    assert thoughts(late) == ["away", "after"]
    first = peer(one).of("agent-thought")[0]
    assert first["id"] == draft.id
    assert "seq" not in first
    assert one.subs["agent:a"].sent == 2


def test_the_counters_follow(world: World) -> None:
    world.client("agent:a")
    world.client("agent:a")
    receipt = world.thought("x")
    assert (world.metrics.sent, world.metrics.delivered, sum(world.metrics.latency_buckets)) == (2, 2, 2)
    publication = world.broker.read([HistoryQuery("agent:a")])[0].publications[0]
    assert publication.id == receipt.id


def test_a_member_that_reads_is_written_to_directly_and_in_order(world: World) -> None:
    own = wired(world, "fast")
    seen = b""
    for number in range(50):
        world.thought(number)
        seen += own.read()
    assert [seen.index(f'"thought":"{number}"'.encode()) for number in range(50)] == sorted(
        seen.index(f'"thought":"{number}"'.encode()) for number in range(50))
    assert own.direct.waiting_bytes == 0


def test_what_the_kernel_does_not_take_waits_and_nothing_overtakes_it(world: World) -> None:
    own = wired(world, "slow")
    for number in range(40):
        world.thought(f"{number}:" + "x" * 1000)
    assert own.direct.send is None, "something waits"
    seen = drained(own)
    found = [int(part.partition(b":")[0]) for part in seen.split(b'"thought":"')[1:]]
    assert found == list(range(40))
    assert own.direct.send is not None


def test_a_crowded_member_waits_in_its_lanes_and_is_told_what_was_shed(throttled: World) -> None:
    own = wired(throttled, "crowded")
    throttled.throttler.user(throttled.connections.session("crowded").user_id, 100_000.0)  # type: ignore[union-attr]
    text = "x" * 10_000
    while not own.direct.crowded:
        throttled.thought(text)
    waiting = own.direct.waiting_bytes
    for number in range(20):
        throttled.thought(f"late {number}")
    assert own.direct.waiting_bytes == waiting, "nothing is added to a crowded outbox"
    seen = drained(own)
    throttled.pass_time(1.0)
    throttled.throttler.flush()
    seen += drained(own)
    assert b'"shed"' in seen
    assert b"late 19" in seen
    assert seen.count(b"late ") == 8, "the lanes of this worker hold eight"


def test_a_member_that_never_reads_is_given_up_and_bystanders_get_everything(world: World) -> None:
    stuck, reader = wired(world, "stuck", max_bytes=CROWDED * 2), wired(world, "reader")
    world.run(world.fanout.flusher.run)
    seen = 0
    for number in range(60):
        world.thought(f"{number}:" + "x" * 10_000)
        seen += drained(reader).count(b'"thought"')
    eventually(lambda: stuck.full == ["stuck"])
    assert seen == 60


def test_members_with_compression_share_one_compressed_frame(world: World) -> None:
    plain, small = wired(world, "plain"), wired(world, "small")
    small.direct.squeezed = True
    small.direct.on_route()
    made = []

    def squeeze(payload: bytes) -> bytes:
        made.append(payload)
        return deflate(payload, 1)

    world.fanout.squeeze = squeeze
    third = wired(world, "third")
    third.direct.squeezed = True
    third.direct.on_route()
    world.thought("again and again " * 20)
    frame, other = small.read(), third.read()
    assert frame == other
    assert len(made) == 1
    assert frame[0] & 0x40, "RSV1"
    start = 2 if frame[1] < 126 else 4
    assert inflate(frame[start:], 10_000) == made[0]
    assert made[0] in plain.read()


def test_whose_record_came_although_the_answer_did_not_is_not_served_twice(world: World) -> None:
    """Live first, then the worker learns that the publish failed; those in its other rooms get it at once."""
    one, both, other = world.client("agent:a"), world.client("agent:a", "project:p"), world.client("project:p")
    draft = world.publisher.thought({"agentId": "a", "thought": "once"})
    world.backend.broker.publish([draft])
    wider = replace(draft, rooms=("agent:a", "project:p"), flags="i")  # as if one partition had answered
    world.fanout.serve_unrecorded(publish_draft(wider, tuple(Placed(room, 0, "") for room in wider.rooms)))
    assert thoughts(one) == thoughts(both) == thoughts(other) == ["once"]
    assert world.metrics.sent == 3


# -- what waits for its turn goes out together


def test_what_waits_for_its_turn_goes_out_in_one_send(world: World) -> None:
    readers = [wired(world, f"w{number}") for number in range(FEW + 1)]
    sends: list[int] = []
    readers[0].direct.send = counted(readers[0].direct.send, sends)
    readers[0].direct.on_route()
    for number in range(5):
        world.thought(number)
    world.run(world.fanout.run)
    for own in readers:
        eventually(lambda own=own: texts(own) == numbers(5))  # type: ignore[misc]
    assert len(sends) == 1
    assert world.metrics.delivered == 5 * len(readers)


def test_a_critical_event_between_others_keeps_its_place(world: World) -> None:
    readers = [wired(world, f"w{number}") for number in range(FEW + 1)]
    for number in range(5):
        world.thought(number, priority=9 if number == 2 else 5)
    world.run(world.fanout.run)
    eventually(lambda: texts(readers[-1]) == numbers(5))


def test_who_has_not_the_tokens_for_all_is_sent_what_it_has_tokens_for(throttled: World) -> None:
    """The bucket of two holds for a turn as for single events, and for a user as a whole."""
    sessions = [throttled.client("agent:a", user=f"u{number % FEW}") for number in range(FEW + 1)]
    for number in range(5):
        throttled.thought(number)
    throttled.run(throttled.fanout.run)
    eventually(lambda: len(thoughts(sessions[-1])) == 2)
    assert all(thoughts(session) == numbers(2) for session in sessions)
    assert throttled.throttler.get_queue_depth("u0") == 3
    assert throttled.throttler.get_events_sent("u0") == 2


def test_tokens_of_a_turn_are_paid_once_for_all_sessions_of_a_user(throttled: World) -> None:
    sessions = [throttled.client("agent:a", user=f"u{number % 8}") for number in range(FEW + 1)]
    for number in range(2):
        throttled.thought(number)
    throttled.run(throttled.fanout.run)
    eventually(lambda: thoughts(sessions[-1]) == numbers(2))
    assert throttled.throttler.get_events_sent("u0") == 2
    assert throttled.throttler.get_queue_depth("u0") == 0


def test_a_turn_for_one_whose_outbox_is_crowded_waits_in_its_lanes(world: World) -> None:
    readers = [wired(world, f"w{number}") for number in range(FEW + 1)]
    deaf = readers[0]
    deaf.direct.write(b"x" * 2 * CROWDED)
    deaf.direct.write(b"x")
    assert deaf.direct.crowded
    for number in range(4):
        world.thought(number)
    world.run(world.fanout.run)
    eventually(lambda: texts(readers[1]) == numbers(4))
    world.throttler.get_queue_depth()
    assert world.throttler.deferred == 4


def test_an_event_of_two_rooms_is_not_joined_where_it_may_have_come_already(world: World) -> None:
    readers = [wired(world, f"w{number}") for number in range(FEW + 1)]
    for number in range(4):
        world.thought(number, also_to=["task:t"] if number == 1 else [])
    world.run(world.fanout.run)
    eventually(lambda: texts(readers[-1]) == numbers(4))


def test_who_is_far_behind_keeps_snapshots_only_and_is_told_how_much_that_left_out(world: World) -> None:
    stuck = wired(world, "stuck", max_bytes=CROWDED * 8)
    sent = 0
    while not stuck.direct.far_behind:
        world.thought("x" * 5000)
        world.task(sent % 100, also_to=["agent:a"])
        sent += 2
        world.throttler.get_queue_depth()
    world.thought("last")
    world.task(99, also_to=["agent:a"])
    assert world.metrics.facts()["slowDeferred"] == 1
    [user] = {session.user_id for session in world.connections.sessions()}
    assert [(waiting["type"], waiting["data"].data_json("agent:a").count(b'"progress":99'))  # type: ignore[attr-defined]
            for waiting in world.throttler.get_queue(user)] == [("task-update", 1)]
    came = drained(stuck)
    world.throttler.flush(world.clock() + 10)
    came += drained(stuck)
    told = [json.loads(text) for text in re.findall(rb'42\["shed",(\{[^}]*\})', came)]
    assert {shed["reason"] for shed in told} == {"snapshots"}
    left_out = sum(shed["count"] for shed in told)
    assert came.count(b'"agent-thought"') + left_out == sent / 2 + 1, "every thought came or is counted"
    assert not stuck.direct.crowded
    world.thought("again")
    assert b'"thought":"again"' in stuck.read()
