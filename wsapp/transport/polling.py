"""The polling transport's two directions: what waits for the next GET, and the packets of a POST (Engine.IO v4,
"HTTP long-polling")."""

from __future__ import annotations

import base64
import binascii
import time
from collections import deque
from typing import Final

import gevent
from gevent.event import Event

from wsapp.transport.frames import Frame

SEPARATOR: Final = b"\x1e"
NOOP: Final = b"6"
CLOSE: Final = b"1"
# Packets of one answer: clients of python-engineio drop the connection at the 17th (`Payload.max_decode_packets`).
MOST_PACKETS: Final = 16
CROSSING: Final = 0.05  # seconds by which the requests of a polling client may overtake each other


class PacketError(Exception):
    """The client sent something Engine.IO does not know here."""


class PollQueue:
    """What waits for the next GET of a polling client."""

    __slots__ = ("bytes", "cancelled", "packets", "polling", "ready")

    def __init__(self) -> None:
        self.packets: deque[bytes] = deque()
        self.bytes = 0
        self.ready = Event()
        self.polling = self.cancelled = False

    def put(self, packet: bytes) -> None:
        """Queue a packet, as text."""
        self.packets.append(packet)
        self.bytes += len(packet)
        self.ready.set()

    def take(self, most: int = MOST_PACKETS) -> list[bytes]:
        """What waits for a GET: the first `most` packets; the next GET brings the rest."""
        packets = [self.packets.popleft() for _ in range(min(most, len(self.packets)))]
        self.bytes -= sum(map(len, packets))
        if not self.packets:
            self.ready.clear()
        return packets

    def frames(self) -> list[Frame]:
        """All that waits, for a WebSocket."""
        return [_from_text(packet) for packet in self.take(len(self.packets)) if packet != NOOP]

    def end(self, packet: bytes = NOOP) -> None:
        """Answer the GET that is under way, if there is one."""
        if self.polling:
            self.put(packet)

    def wait(self, timeout: float) -> None:
        """Until there is something for a GET.  Raises PacketError when a GET of the session was hung up."""
        if not self.cancelled:
            self.polling = True
            try:
                self.ready.wait(timeout)
            finally:
                self.polling = False
        if self.cancelled:
            raise PacketError("a poll of the session was cancelled")

    def cancel(self) -> None:
        """A GET was hung up."""
        self.cancelled = True
        self.ready.set()

    def await_get(self) -> None:
        """A GET that was sent beside the POST which closes may come behind it; it gets its answer too."""
        deadline = time.monotonic() + CROSSING
        while not (self.polling or self.cancelled) and time.monotonic() < deadline:
            gevent.sleep(CROSSING / 10)
        self.end()


def decode_payload(body: bytes, limit: int) -> list[tuple[bytes, bool]]:
    """The packets of a POST and whether they are binary.  Raises PacketError."""
    packets = body.split(SEPARATOR)
    if len(packets) > limit:
        raise PacketError(f"a payload may have {limit} packets")
    return [_decode(packet) for packet in packets]


def _decode(packet: bytes) -> tuple[bytes, bool]:
    if packet[:1] != b"b":
        try:
            packet.decode()
        except UnicodeDecodeError as error:
            raise PacketError("a packet is not UTF-8") from error
        return packet, False
    try:
        return base64.b64decode(packet[1:], validate=True), True
    except binascii.Error as error:
        raise PacketError("a binary packet is not base64") from error


def _from_text(packet: bytes) -> Frame:
    if packet[:1] == b"b":
        return Frame(base64.b64decode(packet[1:]), binary=True)
    return Frame(packet)
