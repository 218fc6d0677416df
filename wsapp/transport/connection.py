"""One Engine.IO connection: a polling queue or a WebSocket, packets in order in both directions.

Engine.IO protocol v4.  The hub hands bytes in; PONGs are dealt with on the spot, messages go through an inbox that
one greenlet works off in order, made on demand: a handler may block, and only its own client waits.
"""

from __future__ import annotations

import logging
import time
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import gevent

from wsapp.errors import CloseCode
from wsapp.transport.frames import TEXT, Frame, Squeeze
from wsapp.transport.heartbeat import PING_FRAME
from wsapp.transport.inbox import Inbox
from wsapp.transport.outbox import RELIEVED, Outbox
from wsapp.transport.polling import CLOSE, NOOP, PacketError, PollQueue, decode_payload
from wsapp.transport.upgrade import Probe
from wsapp.transport.websocket import WebSocket

if TYPE_CHECKING:
    from wsapp.transport.engine import Engine

log = logging.getLogger(__name__)

CLOSED, PONG, MESSAGE = b"1", b"3", b"4"  # the first two carry nothing
BROKEN: Final = frozenset({CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.TOO_BIG})

SLOW_GRACE: Final = 15.0  # seconds in which a client that was cut off may read that it was
INBOX_PAUSE: Final = 0.01  # seconds between looks at a full inbox, while a POST waits
LINGER: Final = 5.0  # seconds a closed polling session still answers its last poll


class Ending(StrEnum):
    """Why a connection has ended, as Flask-SocketIO's disconnect handlers get it (python-engineio's names)."""

    CLIENT = "client disconnect"
    SERVER = "server disconnect"
    PING_TIMEOUT = "ping timeout"
    TRANSPORT_CLOSE = "transport close"
    TRANSPORT_ERROR = "transport error"


# What the server ends itself is SERVER, but for these.
ENDINGS: Final = {CloseCode.PING_TIMEOUT: Ending.PING_TIMEOUT, CloseCode.SLOW_CLIENT: Ending.TRANSPORT_ERROR,
                  **dict.fromkeys(BROKEN, Ending.TRANSPORT_ERROR)}


class Viewer(Protocol):
    """What the inside makes of a connection; gets its heartbeats."""

    def rerouted(self, box: Any) -> None: ...
    def wants_proof(self) -> bool: ...
    def pinging(self) -> None: ...
    def ponged(self, now: float) -> None: ...


class Connection:
    """One transport session.  Satisfies `wsapp.core.session.Peer` and what python-socketio asks of a socket."""

    __slots__ = ("__weakref__", "_inbox", "_poll", "asked", "attachments", "awaiting_pong", "closed",
                 "direct", "engine", "held", "max_message", "pinged_at", "posting", "probe", "session", "sid",
                 "viewer", "ws")

    def __init__(self, engine: Engine, sid: str) -> None:
        self.engine, self.sid = engine, sid
        self.closed = False
        self.ws: WebSocket | None = None
        self.viewer: Viewer | None = None
        self.attachments: Any = None
        self.asked: tuple[str, ...] = ()  # namespaces that it asked to join and has not left
        self.held: list[Frame] | None = None  # while CONNECT is not yet answered
        self.direct: Outbox | None = None  # the way past `push`: a WebSocket that is not held
        self.pinged_at, self.awaiting_pong = 0.0, False
        self.posting, self.max_message = False, min(engine.options.first_message, engine.options.max_message)
        self._poll: PollQueue | None = None
        self.probe: Probe | None = None
        self._inbox: Inbox | None = None
        self.session: dict[str, Any] = {}  # the user session of python-socketio

    # -- as python-socketio sees it

    @property
    def upgraded(self) -> bool:
        return self.ws is not None

    def send(self, packet: Any) -> None:
        """Send a packet of python-engineio."""
        self.push(_frame(packet.encode()))

    # -- outwards

    def push(self, frame: Frame) -> None:
        """Send one shared frame, in order; never blocks, never raises."""
        ws = self.ws
        if self.held is not None:
            self.held.append(frame)
        elif ws is not None:
            ws.send(frame)
        elif self._poll is not None and not self.closed:
            self._poll.put(frame.text)  # a client gets its answer, however large that is: what waited before counts
            if self._poll.bytes - len(frame.text) > self.engine.options.outbox_bytes:
                gevent.get_hub().loop.run_callback(self.close, CloseCode.SLOW_CLIENT, "the client does not poll")

    def hold(self) -> None:
        """Keep what is pushed until `release`: nothing may go out before the answer to CONNECT."""
        self.held = []
        self._route(None)

    def _route(self, box: Outbox | None) -> None:
        self.direct = box
        if box is not None:
            box.on_route = self._rerouted
        self._rerouted()

    def _rerouted(self) -> None:
        if self.viewer is not None:
            self.viewer.rerouted(self.direct)

    def release(self, *first: Frame) -> None:
        """Send `first`, then what was held, over a WebSocket in one piece."""
        held, self.held = self.held, None
        self._route(self.ws.outbox if self.ws is not None else None)
        if self.ws is not None:
            self.ws.send_all([*first, *(held or ())])
            return
        for frame in (*first, *(held or ())):
            self.push(frame)

    def reads(self) -> bool:
        """As `wsapp.core.session.Peer.reads`."""
        return self.backlog() < RELIEVED

    def lag(self, size: int) -> bool:
        """As `wsapp.core.session.Peer.lag`."""
        return self.ws is not None and self.ws.outbox.lag(size)

    @property
    def busy(self) -> bool:
        """Whether something that the client has sent waits or is being handled."""
        return self._inbox is not None and self._inbox.busy

    def backlog(self) -> int:
        """Bytes that wait for the client to read."""
        if self.ws is None:
            return self._poll.bytes if self._poll is not None else 0
        return self.ws.outbox.waiting_bytes

    def close(self, code: int, reason: str) -> None:
        """End the connection; a WebSocket client is told `code`.  A polling one gets what waits, then its session id is
        unknown: that brings every client back, while python-engineio stays away after a CLOSE packet."""
        if self.closed:
            return
        self.engine.closes(code)
        self._end(ENDINGS.get(CloseCode(code), Ending.SERVER))
        if self.ws is not None:
            self.ws.close(code, reason)
        elif self._poll is not None:
            gevent.spawn_later(LINGER, self.engine.forget, self)
        if self.probe is not None:
            self.probe.ws.close(code, reason)

    def _gone(self, ending: Ending, code: int, told: str = "") -> None:
        """The client has left, or is taken to have: no GET is answered any more."""
        self._end(ending)
        for ws in _websockets(self):
            ws.close(code, told)
        self.engine.forget(self)

    def broke(self, code: int, reason: str) -> None:
        """As `close`, for a client that broke the protocol: only a poll that is under way is still answered, with a
        CLOSE packet."""
        if self._poll is not None and not self.closed:
            self._poll.end(CLOSE)
        self.close(code, reason)
        self.engine.forget(self)

    def _end(self, ending: Ending) -> None:
        """The books are closed first, whatever becomes of the bytes."""
        self.closed = True
        self._route(None)
        if self._poll is None:
            self.engine.forget(self)
        else:
            self._poll.ready.set()
        self.engine.ended(self, ending)

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
        if not self.closed:
            self._gone(Ending.PING_TIMEOUT, CloseCode.PING_TIMEOUT, "ping timeout")

    # -- WebSocket

    def open_websocket(self, sock: Any, early: bytes, squeeze: Squeeze | None = None) -> None:
        """Begin as a WebSocket; the OPEN packet went out with the handshake."""
        self.ws = self.make_websocket(sock, self._message, self._transport_closed, squeeze)
        self.ws.start(early)

    def make_websocket(self, sock: Any, on_message: Any, on_closed: Any, squeeze: Squeeze | None) -> WebSocket:
        """A WebSocket with the engine's limits."""
        options = self.engine.options
        return WebSocket(sock, on_message, on_closed, max_message=self.max_message, max_bytes=options.outbox_bytes,
                         max_age=options.outbox_age, on_full=self._slow, squeeze=squeeze)

    def _slow(self) -> None:
        """The client does not read: it is cut off, and told so if it reads again (it may come back and resume)."""
        if not self.closed:
            self.engine.hooks.count("slowCut")
            self._end(Ending.TRANSPORT_ERROR)
            if self.ws is not None:
                self.ws.cut(CloseCode.SLOW_CLIENT, "the client does not read: come back", SLOW_GRACE)

    def _message(self, opcode: int, payload: bytes) -> None:
        try:
            self.receive(payload, opcode != TEXT)
        except PacketError as error:
            self.close(CloseCode.PROTOCOL_ERROR, str(error))

    def _transport_closed(self, _reason: str) -> None:
        if not self.closed:
            self._end(Ending.TRANSPORT_CLOSE)

    # -- upgrade

    def open_probe(self, sock: Any, early: bytes, squeeze: Squeeze | None = None) -> bool:
        """A WebSocket beside the polling, which may take over.  False when there is one."""
        if self._poll is None or self.probe is not None:
            return False
        self.probe = Probe(self, self._poll, sock, squeeze)
        self.probe.start(early, self.engine.options.upgrade_timeout)
        return True

    def take_over(self, ws: WebSocket) -> None:
        """From now on this WebSocket is the transport; it begins with what waited for the next GET."""
        poll, self._poll, self.probe = self._poll, None, None
        self.ws, ws._on_message = ws, self._message
        ws._on_closed = ws.outbox._on_closed = self._transport_closed
        if poll is not None:
            for frame in poll.frames():
                ws.send(frame)
            poll.ready.set()
        if self.held is None:
            self._route(ws.outbox)

    # -- polling

    def open_polling(self, hello: Frame) -> list[bytes]:
        """Begin as polling; returns the packets of the first answer."""
        self._poll = PollQueue()
        return [hello.payload]

    def poll(self, timeout: float) -> list[bytes]:
        """The packets for a GET: waits for the first.  None of them when the session has ended.  Raises PacketError
        when another GET is under way, and when the PONG is overdue."""
        if self.awaiting_pong and time.monotonic() >= self.pinged_at + self.engine.options.ping_timeout:
            self.timed_out()  # the wheel's next tick would have said so
            raise PacketError("no PONG came in time")
        queue = self._poll
        if queue is None or self.probe is not None and not (queue.packets or self.closed):
            return [NOOP]
        if queue.polling and not queue.cancelled:
            self.broke(CloseCode.PROTOCOL_ERROR, "two polls at once")
            raise PacketError("two polls at once")
        queue.wait(timeout)
        packets = queue.take()
        if self.closed and not queue.packets:
            self.engine.forget(self)
        return packets if packets or self.closed else [NOOP]

    def poll_cancelled(self) -> None:
        """The client hung up on its GET: what is put into the answer would be lost, so the session ends."""
        if not self.closed and self.ws is None:
            if self._poll is not None:
                self._poll.cancel()
            self._gone(Ending.TRANSPORT_CLOSE, CloseCode.PROTOCOL_ERROR, "the poll was cancelled")

    def post(self, body: bytes) -> None:
        """The packets of a POST.  Raises PacketError; the connection is closed then, and none of them was taken
        after the wrong one."""
        try:
            decoded = decode_payload(body, self.engine.options.max_packets)
            while self._inbox is not None and self._inbox.full and not self.closed:
                gevent.sleep(INBOX_PAUSE)  # the client feels the backpressure, as on a WebSocket
            if self._poll is not None and (CLOSE, False) in decoded:
                self._poll.await_get()
            for packet in decoded:
                self.receive(*packet)
        except PacketError as error:
            self.broke(CloseCode.PROTOCOL_ERROR, str(error))
            raise

    # -- inwards

    def receive(self, payload: bytes, binary: bool) -> None:
        """One packet from the client, in order.  Raises PacketError."""
        if self.closed:
            return
        if binary:
            self._enqueue(self.engine.read(self, payload), len(payload))
            return
        if payload[:1] == MESSAGE:
            self._enqueue(self.engine.read(self, payload[1:].decode()), len(payload))
        elif payload == PONG:
            self._pong()
        elif payload == CLOSED:
            self._gone(Ending.CLIENT, CloseCode.NORMAL)
        else:
            raise PacketError(f"not a packet of a client: {payload[:20]!r}")

    def _pong(self) -> None:
        if self.awaiting_pong and self.viewer is not None:
            self.viewer.ponged(time.monotonic())
        self.awaiting_pong = False

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
        self.ws.pause()
        return True

    def resume(self) -> None:
        """Read on."""
        if self.ws is not None:
            self.ws.resume()


def _websockets(connection: Connection) -> list[WebSocket]:
    probe = connection.probe
    return [ws for ws in (connection.ws, probe.ws if probe is not None else None) if ws is not None]


def _frame(encoded: str | bytes | bytearray) -> Frame:
    return Frame(encoded.encode()) if isinstance(encoded, str) else Frame(bytes(encoded), binary=True)


def let_in(connection: Connection) -> None:
    """A CONNECT was accepted: from now on messages may be as large as the settings say."""
    connection.engine.gate.settled(connection.sid)
    connection.max_message = connection.engine.options.max_message
    for ws in _websockets(connection):
        ws.allow(connection.max_message)
