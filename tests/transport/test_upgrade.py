"""The probe by itself; what becomes of the packets meanwhile is in test_connection.py."""

from __future__ import annotations

import pytest

from tests.transport.test_connection import Inside, got, inside, until
from tests.transport.test_frames import sent
from wsapp.transport.frames import TEXT, encode, encode_close

__all__ = ["inside"]


def test_probed_and_taken_over_within_one_read(inside: Inside) -> None:
    connection = inside.polling()
    ours, client = inside.pair()
    client.send(sent(TEXT, b"2probe") + sent(TEXT, b"5") + sent(TEXT, b"4hello"))
    assert connection.open_probe(ours, b"")
    until(lambda: inside.handled == ["hello"])
    assert got(client, encode(b"3probe"))
    assert connection.upgraded
    assert connection.probe is None


@pytest.mark.parametrize("early", [sent(TEXT, b"2probe"), sent(TEXT, b"2probe")[:3]])
def test_frames_that_came_with_the_handshake(inside: Inside, early: bytes) -> None:
    connection = inside.polling()
    ours, client = inside.pair()
    connection.open_probe(ours, early)
    client.send(sent(TEXT, b"2probe")[len(early):])
    assert got(client, encode(b"3probe"))


def test_a_probe_of_nothing_is_closed_in_time() -> None:
    inside = Inside(upgrade_timeout=0.01)
    connection = inside.polling()
    ours, client = inside.pair()
    connection.open_probe(ours, b"")
    assert got(client, encode_close(1008, "the upgrade was not finished in time"))
    assert not connection.closed
    client.close()
