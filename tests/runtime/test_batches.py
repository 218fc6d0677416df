"""Frames of a flush, by profile."""

from __future__ import annotations

import json
from typing import Any

from wsapp.core.backlog import Batch, Waiting
from wsapp.core.events import Lane, Placed, Profile, Publication, body_flags, strict_dumps
from wsapp.runtime.batches import batch_frame


def waiting(seq: int, data: dict[str, Any], lane: Lane = Lane.LOG, event: str = "agent-thought", entity: str = "a",
            room: str = "agent:a") -> Waiting:
    publication = Publication(f"{seq:014x}", 1, 5, body_flags(data), lane, entity, event, (Placed(room, seq, "e"),),
                              strict_dumps(data).encode())
    return Waiting(event, 5, lane, entity, room, seq, publication.id, publication, 1, 0.0)


def thought(seq: int, **more: Any) -> Waiting:
    return waiting(seq, {"agentId": "a", "thought": f"t{seq}", **more})


def frames(batches: list[Batch], profile: Profile) -> list[tuple[Any, int]]:
    return [(json.loads(frame.payload[2:]), count) for frame, count in batch_frame(batches, profile)]


def test_one_thought_is_no_array() -> None:
    [(event, count)] = frames([Batch([thought(1)])], Profile.PLAIN)
    assert (event[1]["thought"], event[1]["seq"], count) == ("t1", 1, 1)


def test_plain_thoughts_are_one_array() -> None:
    [(event, count)] = frames([Batch([thought(1), thought(2)])], Profile.PLAIN)
    assert (event[0], [one["seq"] for one in event[1]], count) == ("agent-thought", [1, 2], 2)


def test_plain_deltas_are_joined_into_the_last() -> None:
    waits = [waiting(seq, {"agentId": "a", "thought": text, "thoughtId": "x", "delta": True}, Lane.APPEND, entity="x")
             for seq, text in ((1, "Hel"), (2, "lo "), (3, "wörld"))]
    [(event, count)] = frames([Batch(waits)], Profile.PLAIN)
    assert (event[1]["thought"], event[1]["firstSeq"], event[1]["seq"], count) == ("Hello wörld", 1, 3, 3)


def test_other_events_stay_single_for_plain_clients() -> None:
    waits = [waiting(seq, {"n": seq}, event="deployed", entity="deployed") for seq in (1, 2)]
    assert [event[1]["n"] for event, _ in frames([Batch(waits)], Profile.PLAIN)] == [1, 2]


def test_the_sdk_gets_one_batch_with_everything() -> None:
    batches = [Batch([thought(1), thought(2)]), Batch([waiting(7, {"taskId": "t"}, Lane.STATE, "task-update", "t")])]
    [(event, count)] = frames(batches, Profile.SDK)
    assert (event[0], [item[0] for item in event[1]], count) == (
        "batch", ["agent-thought", "agent-thought", "task-update"], 3)
    assert [item[2]["rooms"]["agent:a"] for item in event[1]] == [1, 2, 7]


def test_a_single_event_is_no_batch_for_the_sdk() -> None:
    [(event, _)] = frames([Batch([thought(1)])], Profile.SDK)
    assert event[0] == "agent-thought"
    assert event[2]["rooms"] == {"agent:a": 1}


def test_a_merged_state_is_the_latest_with_its_own_number() -> None:
    for profile in Profile:
        first, latest = (waiting(seq, {"taskId": "t", "progress": seq}, Lane.STATE, "task-update", "t")
                         for seq in (1, 2))
        [(event, count)] = frames([Batch([latest.after(first)])], profile)
        assert (event[1]["progress"], event[1]["seq"], count) == (2, 2, 1)


def test_receivers_of_the_same_batches_share_the_frame() -> None:
    one, two = Batch([thought(1), thought(2)]), Batch([waiting(7, {"taskId": "t"}, Lane.STATE, "task-update", "t")])
    frames = [next(batch_frame(batches, profile))[0] for batches, profile in (
        ([one, two], Profile.SDK), ([one, two], Profile.SDK), ([two, one], Profile.SDK), ([one], Profile.SDK),
        ([one], Profile.PLAIN), ([one], Profile.PLAIN))]
    assert frames[0] is frames[1] and frames[4] is frames[5]
    assert len({id(frame) for frame in frames}) == 4


def test_an_event_sent_to_a_user_directly_has_no_number() -> None:
    direct = Waiting("note", 5, Lane.LOG, "note", "", 1, "1", {"text": "x"}, 10, 0.0)
    assert frames([Batch([direct])], Profile.PLAIN) == [(["note", {"text": "x"}], 1)]
    [(event, _)] = frames([Batch([direct, direct])], Profile.SDK)
    assert event == ["batch", [["note", {"text": "x"}]] * 2]
