"""Rooms as Server-Sent Events (WHATWG HTML, "Server-sent events"): a session whose peer is an HTTP answer.

It is throttled, recovered, authorized and drained like any other session, in the sdk profile: the meta of each event
says where it stands, and so the `id:` of the stream is exact.

The id has one position per room, in the order in which the rooms were asked for: `<seq>@<epoch>`, joined by commas.
It covers what was sent and nothing that still waits for its turn: coming back with it loses nothing.  After a long
absence states are sent before the `shed` that tells what was left out; a room's place stands still until then.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from socket import MSG_PEEK
from typing import Any, ClassVar, Final, NamedTuple

import gevent
from gevent.event import Event

from wsapp.core.catch_up import SHED_CATCH_UP
from wsapp.core.events import Position, Profile, strict_dumps
from wsapp.core.session import Session
from wsapp.errors import CloseCode, ErrorCode, PayloadError, RequestError
from wsapp.runtime.hub import Hub
from wsapp.runtime.recovery import Recovery, recover
from wsapp.transport.engine import Engine
from wsapp.transport.frames import Frame
from wsapp.transport.gate import Full, TooMany
from wsapp.transport.outbox import RELIEVED

log = logging.getLogger(__name__)

RETRY_MS: Final = 2000  # hint to browsers: come back after this long
COMMENT_EVERY: Final = 15.0  # seconds at most between two lines: proxies close what is silent
GRACE: Final = 5.0  # seconds to read the last lines before the socket is closed
CLOSED: Final = "session-closed"
ACK_WANTED: Final = "ack-wanted"
JOIN_SIZE: Final = 65_536  # bytes
_PLACE: Final = re.compile(r"([0-9]{1,16})@([A-Za-z0-9_.-]{0,64})")
_DECODER: Final = json.JSONDecoder()


class Item(NamedTuple):
    """One event of a frame: its data as JSON text, where it stands, and its id if it wants to be acknowledged."""

    event: str
    data: str
    places: tuple[tuple[str, Position], ...] = ()
    wants_ack: str = ""


def _arguments(text: str, start: int) -> list[tuple[int, int]]:
    """Where the items of a compact JSON array stand that begins at `start`."""
    at, spans = start + 1, []
    while text[at] != "]":
        _, end = _DECODER.raw_decode(text, at)
        spans.append((at, end))
        at = end + (text[end] == ",")
    return spans


def _item(text: str, spans: Sequence[tuple[int, int]]) -> Item:
    event: str = json.loads(text[slice(*spans[0])])
    data = text[slice(*spans[1])] if len(spans) > 1 else "null"
    if event == "resync":
        told = json.loads(data)
        return Item(event, data, ((told["room"], Position(told["epoch"], told["seq"])),))
    if len(spans) < 3:
        return Item(event, data)
    meta = json.loads(text[slice(*spans[2])])
    epochs = meta.get("epochs", {})
    return Item(event, data, tuple((room, Position(epochs.get(room, meta["epoch"]), seq))
                                   for room, seq in meta["rooms"].items()), meta["id"] if meta.get("critical") else "")


def items_of(frame: Frame) -> list[Item]:
    """The events of a Socket.IO frame; none when it is something else."""
    if not frame.payload.startswith(b"42["):
        return []
    text = frame.payload.decode()
    spans = _arguments(text, 2)
    if text[slice(*spans[0])] != '"batch"':
        return [_item(text, spans)]
    return [_item(text, _arguments(text, start)) for start, _ in _arguments(text, spans[1][0])]


def read_id(text: str, rooms: Sequence[str]) -> dict[str, Position]:
    """The positions of a stream's id.  Raises PayloadError."""
    places = [_PLACE.fullmatch(part) for part in text.split(",")]
    if len(places) != len(rooms) or None in places:
        problem = f"must be the id of a stream of these {len(rooms)} rooms"
        raise PayloadError(f"since {problem}", {"since": [problem]})
    return {room: Position(place[2], int(place[1])) for room, place in zip(rooms, places, strict=True) if place}


class StreamPeer:
    """The writing end.  Satisfies `wsapp.core.session.Peer`; `abort` cuts the socket."""

    _parsed: ClassVar[tuple[Frame, list[Item]] | None] = None  # one frame goes to many peers in a row

    direct = None

    def __init__(self, sid: str, rooms: Sequence[str], max_bytes: int, abort: Callable[[], None]) -> None:
        self.sid, self._rooms, self._max_bytes, self._abort = sid, tuple(rooms), max_bytes, abort
        self.session: Session | None = None
        self.seen: dict[str, Position] = {}
        self._ahead: dict[str, Position] = {}  # sent of rooms of which is still to be told what was left out
        self._untold: set[str] = set()
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._more = Event()
        self.closed = self.left = self._told_why = False

    # -- the Peer

    def push(self, frame: Frame) -> None:
        """As `Peer.push`."""
        if self.closed:
            return
        cached = StreamPeer._parsed
        if cached is None or cached[0] is not frame:
            cached = StreamPeer._parsed = (frame, items_of(frame))
        items = cached[1]
        placed = False
        for item in items:
            for room, position in item.places:
                self._see(room, position)
            placed = bool(item.places) or (bool(self._untold) and item.event == "shed"
                                           and self._told(json.loads(item.data)))
        for number, item in enumerate(items):
            # A batch may hold a later event of a room before an earlier one: only its end is a place to resume from.
            self._write(item, with_id=placed and number == len(items) - 1)
            if item.wants_ack:  # the data need not show its id, nor that it is critical
                self._write(Item(ACK_WANTED, strict_dumps({"id": item.wants_ack, "event": item.event})))
        if self._bytes > self._max_bytes:
            self.close(CloseCode.SLOW_CLIENT, "the client does not read")

    def _see(self, room: str, position: Position) -> None:
        known = self._ahead.get(room) or self.seen.get(room)
        if known is not None and (known.epoch != position.epoch or known.seq < position.seq):
            (self._ahead if room in self._untold else self.seen)[room] = position

    def _told(self, shed: Any) -> bool:
        """Whether a room's place may move on, because it is told now what was left out there."""
        if not isinstance(shed, dict) or shed.get("reason") != SHED_CATCH_UP or shed["room"] not in self._untold:
            return False
        room = shed["room"]
        self._untold.discard(room)
        ahead = self._ahead.pop(room, None)
        self._see(room, Position(self.seen[room].epoch, shed["to"]))
        if ahead is not None:
            self._see(room, ahead)
        return True

    def backlog(self) -> int:
        """As `Peer.backlog`."""
        return self._bytes

    def reads(self) -> bool:
        """As `Peer.reads`."""
        return self._bytes < RELIEVED

    def lag(self, size: int) -> bool:
        """As `Peer.lag`."""
        return False

    def close(self, code: int, reason: str) -> None:
        """As `Peer.close`: `session-closed {code, reason}` is the last event, for who does not read the only one."""
        if self.closed:
            return
        if code == CloseCode.SLOW_CLIENT:
            self._queue.clear()
            self._bytes = 0
        if not self._told_why:
            self._write(Item(CLOSED, strict_dumps({"code": int(code), "reason": reason})))
        self.closed = True
        self._more.set()
        gevent.spawn_later(GRACE, self._abort)

    def gone(self) -> None:
        """The client is not there any more: nothing is written to it."""
        self.closed = self.left = True
        self._more.set()

    # -- lines

    def id(self) -> str:
        """Where the stream stands."""
        places = []
        for room in self._rooms:
            position = self.seen[room]
            sub = self.session.subs.get(room) if self.session is not None else None
            seq = min(position.seq, sub.position()) if sub is not None else position.seq
            places.append(f"{max(0, seq)}@{position.epoch}")
        return ",".join(places)

    def _write(self, item: Item, with_id: bool = False) -> None:
        self._told_why = self._told_why or item.event == CLOSED
        retry = f"retry: {json.loads(item.data)['retryAfterMs']}\n" if item.event == "server-shutdown" else ""
        id = f"id: {self.id()}\n" if with_id else ""
        self._put(f"{retry}{id}event: {item.event}\ndata: {item.data}\n\n".encode())

    def _put(self, line: bytes) -> None:
        self._queue.append(line)
        self._bytes += len(line)
        self._more.set()

    def begin(self, told: Mapping[str, object], positions: Mapping[str, Position],
              untold: Iterable[str] = ()) -> None:
        """The first event, `session`, with the id that what follows starts from.  In the rooms `untold` a `shed` will
        say what was left out."""
        self.seen, self._untold = dict(positions), set(untold)
        places = [f"{positions[room].seq}@{positions[room].epoch}" for room in self._rooms]
        early, self._queue = self._queue, deque[bytes]()  # what was told before the stream had begun
        self._put(f"retry: {RETRY_MS}\nid: {','.join(places)}\nevent: session\n"
                  f"data: {strict_dumps(dict(told))}\n\n".encode())
        self._queue.extend(early)

    def lines(self, every: float, alive: Callable[[], None]) -> Iterator[bytes]:
        """What is to be written, as it comes; a comment when nothing does.  `alive()` after each write."""
        while True:
            if not self._queue and not self.closed:
                self._more.wait(every)
            self._more.clear()
            if self.left:
                return
            chunk = self._joined() or b": \n\n"
            last = self.closed and not self._queue
            yield chunk
            alive()
            if last:
                return

    def _joined(self) -> bytes:
        """As much as is handed to the kernel at once: what it does not take yet still counts as waiting."""
        parts, size = [], 0
        while self._queue and size < JOIN_SIZE:
            parts.append(self._queue.popleft())
            size += len(parts[-1])
        self._bytes -= size
        return b"".join(parts)


class Stream:
    """One open stream, from `open_stream` to `end`."""

    def __init__(self, hub: Hub, engine: Engine, session: Session, peer: StreamPeer) -> None:
        self._hub, self._engine, self._session, self._peer = hub, engine, session, peer
        self._socket: Any = None
        self._watcher: Any = None

    def watch(self, handler: Any) -> None:
        """Notice at once when the client goes, and not when a line to it fails: it counts as somebody who watches."""
        self._socket = getattr(getattr(handler, "socket", None), "_sock", None)
        if self._socket is not None:
            self._watcher = gevent.get_hub().loop.io(self._socket.fileno(), 1)
            self._watcher.start(self._readable)

    def _readable(self) -> None:
        """Called by the hub: nothing may block."""
        try:
            said = self._socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self._unwatch()  # a client that talks on while it is answered has its next request wait
        if not said:
            self._peer.gone()

    def _unwatch(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def lines(self) -> Iterator[bytes]:
        """The answer's body."""
        every = min(COMMENT_EVERY, self._hub.settings.ping_interval)
        return self._peer.lines(every, self._alive)

    def _alive(self) -> None:
        self._hub.connections.touch(self._session.sid)

    def end(self) -> None:
        """The answer is over, for whatever reason.  Nothing is saved: the client has the id.  Idempotent."""
        hub, session = self._hub, self._session
        self._unwatch()
        self._peer.closed = True
        self._engine.gate.closed(session.sid)
        hub.admission.left(session.sid)
        hub.connections.registry.leave_all(session)
        if hub.connections.forget(session.sid) is not None:
            hub.run_hooks("disconnect", session)


class WorkerFull(RequestError):
    """All places are taken; `retry_after` in seconds."""

    def __init__(self, full: Full) -> None:
        super().__init__(ErrorCode.LIMIT, str(full))
        self.retry_after = full.retry_after


def open_stream(hub: Hub, engine: Engine, environ: dict[str, Any], auth: dict[str, Any], rooms: Sequence[str],
                since: Mapping[str, Position | None], presence: bool = False) -> Stream:
    """Admit a client and put it into its rooms; `presence`: it wants to know who else is there.  Raises RequestError,
    TokenRefused, ConnectionRefusedError of a hook, and BrokerUnavailable."""
    try:
        engine.admit(environ)
    except Full as error:
        raise WorkerFull(error) from error
    except TooMany as error:
        raise RequestError(ErrorCode.RATE_LIMITED, str(error)) from error
    identity = hub.admission.identify(auth, environ)
    handler = environ.get("wsapp.handler")
    peer = StreamPeer(hub.connections.boot + secrets.token_urlsafe(15), rooms, hub.settings.outbox_bytes,
                      lambda: _cut(handler))
    session = hub.connections.handle_connection(peer.sid, peer, identity.user_id, profile=Profile.SDK)
    engine.gate.opened(peer.sid, environ)
    engine.gate.settled(peer.sid)
    stream = Stream(hub, engine, session, peer)
    try:
        hub.admission.admitted(session, identity)
        hub.run_hooks("connect", session, environ, auth)
        for room in rooms:
            hub.require_subscribe(session, room, presence=presence)
        recovery = recover(session, {room: since.get(room) for room in rooms}, hub.connections.registry, hub.delivery)
        recovery.pace(hub.delivery.pace)
        hub.metrics.recovery_refused += not recovery.recovered
        told = _told(session, recovery)
        if presence:
            told["presence"] = hub.presence.subscribe_all(session, rooms)
            session.dirty = False  # nothing of a stream is saved
    except BaseException:
        stream.end()
        raise
    peer.session = session
    peer.begin(told, _start(recovery, session, since), recovery.untold)
    stream.watch(handler)
    gevent.spawn(_go_on, hub, session, recovery)
    return stream


def _go_on(hub: Hub, session: Session, recovery: Recovery) -> None:
    """What was missed, then live, then what the user has not acknowledged yet."""
    recovery.release()
    hub.critical.arrived(session, recovery.critical)


def _told(session: Session, recovery: Recovery) -> dict[str, object]:
    told: dict[str, object] = {"sessionId": session.id, **recovery.outcome()}
    told["rooms"] = {room: {"epoch": at.epoch, "seq": at.seq} for room, at in recovery.positions.items()}
    return told


def _start(recovery: Recovery, session: Session, since: Mapping[str, Position | None]) -> dict[str, Position]:
    """Where each room goes on from: what was asked for, or where it stands."""
    start = {}
    for room, head in recovery.positions.items():
        asked = since.get(room)
        start[room] = head if asked is None or room in recovery.refused else Position(head.epoch, asked.seq)
    return start


def _cut(handler: Any) -> None:
    """A client that does not even read its goodbye."""
    sock = getattr(handler, "socket", None)
    if sock is not None:
        try:
            sock.shutdown(2)
        except OSError as error:
            log.debug("the stream was closed already: %s", error)
