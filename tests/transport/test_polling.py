"""What waits for a GET, and what a POST holds."""

from __future__ import annotations

import engineio.payload
import gevent
import pytest

from wsapp.transport.polling import NOOP, PacketError, PollQueue, decode_payload


def test_what_waits_is_taken_at_once_and_in_order() -> None:
    queue = PollQueue()
    queue.put(b"4a")
    queue.put(b"bAQ==")
    queue.wait(0)
    assert queue.bytes == 7
    assert (queue.take(), queue.take(), queue.bytes) == ([b"4a", b"bAQ=="], [], 0)


def test_one_answer_has_sixteen_packets_and_the_next_the_rest() -> None:
    """python-engineio's client drops the connection on more."""
    queue = PollQueue()
    packets = [b"4%02d" % number for number in range(40)]
    for packet in packets:
        queue.put(packet)
    answers = []
    while queue.packets:
        queue.wait(0)
        answers.append(queue.take())
        assert queue.bytes == 3 * len(queue.packets)
    assert [len(answer) for answer in answers] == [16, 16, 8]
    assert [packet for answer in answers for packet in answer] == packets
    assert len(engineio.payload.Payload(encoded_payload="\x1e".join(map(bytes.decode, answers[0]))).packets) == 16
    assert not queue.ready.is_set()


def test_a_websocket_takes_over_all_at_once() -> None:
    queue = PollQueue()
    for number in range(40):
        queue.put(b"4%d" % number)
    assert len(queue.frames()) == 40


def test_a_get_waits_for_the_first_and_may_be_ended() -> None:
    queue = PollQueue()
    queue.end()
    assert queue.take() == [], "nobody was asking"
    waits = gevent.spawn(queue.wait, 5)
    gevent.sleep(0)
    assert queue.polling
    queue.end()
    waits.get(timeout=5)
    assert (queue.polling, queue.take()) == (False, [NOOP])


def test_a_cancelled_session_answers_no_get() -> None:
    queue = PollQueue()
    waits = gevent.spawn(queue.wait, 5)
    gevent.sleep(0)
    queue.cancel()
    for get in (waits.get, lambda timeout: queue.wait(timeout)):
        with pytest.raises(PacketError):
            get(timeout=5)


def test_a_get_that_comes_behind_is_awaited_for_a_moment() -> None:
    queue = PollQueue()
    queue.await_get()
    posts = gevent.spawn(queue.await_get)
    gevent.sleep(0)
    waits = gevent.spawn(queue.wait, 5)
    posts.get(timeout=5)
    waits.get(timeout=5)
    assert queue.take() == [NOOP]
    waits.kill()


def test_payloads() -> None:
    assert decode_payload("4é\x1ebAQI=\x1e3".encode(), 3) == [("4é".encode(), False), (b"\1\2", True), (b"3", False)]


@pytest.mark.parametrize("body", [b"\xff", b"4\x1e\xc3", b"bA", b"b!", b"3\x1e3\x1e3\x1e3"])
def test_what_is_no_payload(body: bytes) -> None:
    with pytest.raises(PacketError):
        decode_payload(body, 3)


def test_what_waited_goes_on_by_websocket() -> None:
    queue = PollQueue()
    for packet in (b"bAQI=", NOOP, b"4x"):
        queue.put(packet)
    assert [(frame.payload, frame.binary) for frame in queue.frames()] == [(b"\1\2", True), (b"4x", False)]
    assert queue.bytes == 0
