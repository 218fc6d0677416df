"""One Engine.IO connection: a polling queue or a WebSocket, packets in order in both directions.

Engine.IO protocol v4.  The hub hands bytes in; PONGs are dealt with on the spot, messages go through an inbox that
one greenlet works off in order, made on demand: a handler may block, and only its own client waits.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import gevent
from gevent.event import Event

from wsapp.errors import CloseCode
from wsapp.transport.frames import TEXT, Frame, Squeeze
from wsapp.transport.heartbeat import PING_FRAME
from wsapp.transport.inbox import Inbox
from wsapp.transport.outbox import Outbox
from wsapp.transport.websocket import WebSocket

if TYPE_CHECKING:
    from wsapp.transport.engine import Engine

log = logging.getLogger(__name__)

OPEN, CLOSED, PING, PONG, MESSAGE, UPGRADE, NOOP = (ord(digit) for digit in "0123456")

SEPARATOR: Final = b"\x1e"
NOOP_FRAME: Final = Frame(b"6")
CLOSE_FRAME: Final = Frame(b"1")
PROBE_ANSWER: Final = Frame(b"3probe")

SLOW_GRACE: Final = 15.0  # seconds in which a client that was cut off may read that it was
INBOX_PAUSE: Final = 0.01  # seconds between looks at a full inbox, while a POST waits
LINGER: Final = 5.0  # seconds a closed polling session still answers its last poll


class PacketError(Exception):
    """The client sent something Engine.IO does not know here."""


class Viewer(Protocol):
    """What the inside makes of a connection; gets its heartbeats."""

    def rerouted(self, box: Any) -> None: ...
    def wants_proof(self) -> bool: ...
    def pinging(self) -> None: ...
    def ponged(self, now: float) -> None: ...


class PollQueue:
    """What waits for the next GET of a polling client."""

    __slots__ = ("bytes", "packets", "polling", "ready")

    def __init__(self) -> None:
        self.packets: deque[bytes] = deque()
        self.bytes = 0
        self.ready = Event()
        self.polling = False

    def put(self, packet: bytes) -> None:
        self.packets.append(packet)
        self.bytes += len(packet)
        self.ready.set()

    def take(self) -> list[bytes]:
        packets = list(self.packets)
        self.packets.clear()
        self.bytes = 0
        self.ready.clear()
        return packets


class Connection:
    """One transport session.  Satisfies `wsapp.core.session.Peer` and what python-socketio asks of a socket."""

    __slots__ = ("__weakref__", "_inbox", "_poll", "_probe", "_session",
                 "attachments", "awaiting_pong", "closed", "connected", "direct", "engine", "held", "pinged_at",
                 "sid", "viewer", "ws")

    def __init__(self, engine: Engine, sid: str) -> None:
        self.engine, self.sid = engine, sid
        self.closed = False
        self.connected = True
        self.ws: WebSocket | None = None
        self.viewer: Viewer | None = None
        self.attachments: Any = None
        self.held: list[Frame] | None = None  # while CONNECT is not yet answered
        self.direct: Outbox | None = None  # the way past `push`: a WebSocket that is not held
        self.pinged_at, self.awaiting_pong = 0.0, False
        self._poll: PollQueue | None = None
        self._probe: WebSocket | None = None
        self._inbox: Inbox | None = None
        self._session: dict[str, Any] | None = None

    # -- as python-socketio sees it

    @property
    def session(self) -> dict[str, Any]:
        """The user session of python-socketio; made when first asked for."""
        if self._session is None:
            self._session = {}
        return self._session

    @session.setter
    def session(self, value: dict[str, Any]) -> None:
        self._session = value

    @property
    def upgraded(self) -> bool:
        return self.ws is not None

    def send(self, packet: Any) -> None:
        """Send a packet of python-engineio."""
        encoded = packet.encode()
        binary = isinstance(encoded, (bytes, bytearray))
        self.push(Frame(bytes(encoded) if binary else encoded.encode(), binary))

    # -- outwards

    def push(self, frame: Frame) -> None:
        """Send one shared frame, in order; never blocks, never raises."""
        ws = self.ws
        if self.held is not None:
            self.held.append(frame)
        elif ws is not None:
            ws.send(frame)
        elif self._poll is not None and not self.closed:
            self._poll.put(frame.text)
            if self._poll.bytes > self.engine.options.outbox_bytes:
                gevent.get_hub().loop.run_callback(self.close, CloseCode.SLOW_CLIENT, "the client does not poll")

    def hold(self) -> None:
        """Keep what is pushed until `release`: nothing may go out before the answer to CONNECT."""
        self.held = []
        self._route(None)

    def _route(self, box: Outbox | None) -> None:
        self.direct = box
        if self.viewer is not None:
            self.viewer.rerouted(box)

    def release(self, first: Frame) -> None:
        """Send `first`, then what was held."""
        held, self.held = self.held, None
        self._route(self.ws.outbox if self.ws is not None else None)
        for frame in (first, *(held or ())):
            self.push(frame)

    def backlog(self) -> int:
        """Bytes that wait for the client to read."""
        if self.ws is not None:
            return self.ws.outbox.waiting_bytes
        return self._poll.bytes if self._poll is not None else 0

    def close(self, code: int, reason: str) -> None:
        """End the connection; a WebSocket client is told `code`, a polling one gets a close packet."""
        if self.closed:
            return
        self._end(reason)
        if self.ws is not None:
            self.ws.close(code, reason)
        elif self._poll is not None:
            self._poll.put(CLOSE_FRAME.payload)
            gevent.spawn_later(LINGER, self.engine.forget, self)
        if self._probe is not None:
            self._probe.close(code, reason)

    def _end(self, reason: str) -> None:
        """The books are closed first, whatever becomes of the bytes."""
        self.closed, self.connected = True, False
        self._route(None)
        if self._poll is None:
            self.engine.forget(self)
        else:
            self._poll.ready.set()
        self.engine.ended(self, reason)

    # -- heartbeat

    def wants_ping(self) -> bool:
        """Whether a PING is worth it before its time."""
        return self.viewer is not None and self.viewer.wants_proof()

    def ping(self) -> None:
        if self.viewer is not None:
            self.viewer.pinging()
        self.push(PING_FRAME)

    def check(self, now: float) -> None:
        """An outbox that nobody empties is the client's end, whatever it still answers."""
        if self.ws is not None and self.ws.outbox.overdue(now):
            self._slow()

    def timed_out(self) -> None:
        reason = "ping timeout"
        if self.closed:
            return
        self._end(reason)
        if self.ws is not None:
            self.ws.close(CloseCode.PING_TIMEOUT, reason)
        self.engine.forget(self)

    # -- WebSocket

    def open_websocket(self, sock: Any, early: bytes, hello: Frame, squeeze: Squeeze | None = None) -> None:
        """Begin as a WebSocket: `hello` is the OPEN packet."""
        self.ws = self._websocket(sock, self._message, self._transport_closed, squeeze)
        self.ws.send(hello)
        self.ws.start(early)

    def _websocket(self, sock: Any, on_message: Any, on_closed: Any, squeeze: Squeeze | None) -> WebSocket:
        options = self.engine.options
        return WebSocket(sock, on_message, on_closed, max_message=options.max_message, max_bytes=options.outbox_bytes,
                         max_age=options.outbox_age, on_full=self._slow, squeeze=squeeze)

    def _slow(self) -> None:
        """The client does not read: it is cut off, and told so if it reads again (it may come back and resume)."""
        if not self.closed:
            self._end("transport error")
            if self.ws is not None:
                self.ws.cut(CloseCode.SLOW_CLIENT, "the client does not read: come back", SLOW_GRACE)

    def _message(self, opcode: int, payload: bytes) -> None:
        try:
            self.receive(payload, opcode != TEXT)
        except PacketError as error:
            self.close(CloseCode.PROTOCOL_ERROR, str(error))

    def _transport_closed(self, reason: str) -> None:
        if not self.closed:
            self._end(reason)

    # -- upgrade (Engine.IO v4, "Upgrade")

    def open_probe(self, sock: Any, early: bytes, squeeze: Squeeze | None = None) -> None:
        """A WebSocket beside the polling: it takes over once the client has probed it."""
        self._probe = self._websocket(sock, self._probe_message, self._probe_closed, squeeze)
        self._probe.start(early)
        gevent.spawn_later(self.engine.options.upgrade_timeout, self._give_up_probe, self._probe)

    def _give_up_probe(self, probe: WebSocket) -> None:
        if self._probe is probe:
            probe.close(CloseCode.POLICY, "the upgrade was not finished in time")

    def _probe_closed(self, _reason: str) -> None:
        self._probe = None

    def _probe_message(self, opcode: int, payload: bytes) -> None:
        probe = self._probe
        if self.ws is not None:  # already upgraded: this is its regular traffic now
            self._message(opcode, payload)
        elif probe is None or self.closed:
            return
        elif opcode == TEXT and payload == b"2probe":
            probe.send(PROBE_ANSWER)
            if self._poll is not None and self._poll.polling:
                self._poll.put(NOOP_FRAME.payload)  # ends the poll that is under way
        elif opcode == TEXT and payload == b"5":
            self._take_over(probe)
        else:
            probe.close(CloseCode.PROTOCOL_ERROR, "an upgrade is 2probe, then 5")

    def _take_over(self, probe: WebSocket) -> None:
        poll, self._poll, self._probe = self._poll, None, None
        self.ws = probe
        probe._on_closed = probe.outbox._on_closed = self._transport_closed
        if poll is not None:
            for packet in poll.take():
                if packet != NOOP_FRAME.payload:
                    probe.send(_from_text(packet))
            poll.ready.set()
        if self.held is None:
            self._route(probe.outbox)

    # -- polling

    def open_polling(self, hello: Frame) -> list[bytes]:
        """Begin as polling; returns the packets of the first answer."""
        self._poll = PollQueue()
        return [hello.payload]

    def poll(self, timeout: float) -> list[bytes]:
        """The packets for a GET: waits for the first.  Raises PacketError when another GET is under way."""
        queue = self._poll
        if queue is None or self._probe is not None and not queue.packets:
            return [NOOP_FRAME.payload]
        if queue.polling:
            self.close(CloseCode.PROTOCOL_ERROR, "two polls at once")
            raise PacketError("two polls at once")
        queue.polling = True
        try:
            queue.ready.wait(timeout)
        finally:
            queue.polling = False
        if self.closed:
            self.engine.forget(self)
        return queue.take() or [NOOP_FRAME.payload]

    def post(self, body: bytes) -> None:
        """The packets of a POST.  Raises PacketError; the connection is closed then, and none of them was taken
        after the wrong one."""
        packets = body.split(SEPARATOR)
        try:
            if len(packets) > self.engine.options.max_packets:
                raise PacketError(f"a payload may have {self.engine.options.max_packets} packets")
            decoded = [_decode(packet) for packet in packets]
            while self._inbox is not None and self._inbox.full and not self.closed:
                gevent.sleep(INBOX_PAUSE)  # the client feels the backpressure, as on a WebSocket
            for packet in decoded:
                self.receive(*packet)
        except PacketError as error:
            self.close(CloseCode.PROTOCOL_ERROR, str(error))
            raise

    # -- inwards

    def receive(self, payload: bytes, binary: bool) -> None:
        """One packet from the client, in order.  Raises PacketError."""
        if self.closed:
            return
        if binary:
            self._enqueue(self.engine.read(self, payload), len(payload))
            return
        kind = payload[0] if payload else -1
        if kind == MESSAGE:
            self._enqueue(self.engine.read(self, payload[1:].decode()), len(payload))
        elif kind == PONG:
            self._pong()
        elif kind == CLOSED:
            self._client_left()
        else:
            raise PacketError(f"not a packet of a client: {payload[:20]!r}")

    def _pong(self) -> None:
        now = time.monotonic()
        if self.awaiting_pong:
            self.awaiting_pong = False
            if self.viewer is not None:
                self.viewer.ponged(now)

    def _client_left(self) -> None:
        self._end("client namespace disconnect" if self.viewer is None else "transport close")
        if self.ws is not None:
            self.ws.close(CloseCode.NORMAL)
        self.engine.forget(self)

    def _enqueue(self, item: Any, size: int) -> None:
        if item is None:
            return
        if self._inbox is None:
            self._inbox = Inbox(self, partial(self.engine.deliver, self), self.engine.options.inbox_bytes)
        self._inbox.put(item, size)

    def pause(self) -> bool:
        """Read no more for now; False where there is nothing to be read (a POST waits by itself)."""
        if self.ws is None:
            return False
        self.ws.outbox.pause()
        return True

    def resume(self) -> None:
        """Read on."""
        if self.ws is not None:
            self.ws.outbox.resume()


def _decode(packet: bytes) -> tuple[bytes, bool]:
    """One packet of an HTTP payload."""
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
    """A queued packet of the polling transport, for the WebSocket."""
    if packet[:1] == b"b":
        return Frame(base64.b64decode(packet[1:]), binary=True)
    return Frame(packet)
