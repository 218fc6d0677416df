"""The stock side: `socketio.emit(...)` of the host application, and of any process with the same message queue.

Compatible with python-socketio's RedisManager on the wire.  Differences: an event is encoded and framed once for all
receivers; publishing never blocks the caller; the host id is made when the worker starts, not inherited by a fork.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

import gevent
from gevent.queue import Full, Queue
from socketio import packet as sio_packet
from socketio.manager import Manager
from socketio.pubsub_manager import PubSubManager

from wsapp.core.events import strict_dumps, strict_loads
from wsapp.core.ports import Bus
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.link import Links
from wsapp.transport.frames import Frame

log = logging.getLogger(__name__)

QUEUE_LIMIT: Final = 10_000  # messages to the other workers that may wait for Redis
RETRY_PAUSE: Final = 0.25  # seconds


class StrictJson:
    """The JSON module of python-socketio's packets: what browsers could not parse is refused where it is emitted."""

    @staticmethod
    def dumps(value: object, **_options: Any) -> str:
        """Compact JSON.  Raises PayloadError, also for NaN."""
        return strict_dumps(value)

    @staticmethod
    def loads(text: str | bytes, **_options: Any) -> Any:
        """Raises ValueError, also for NaN."""
        return strict_loads(text)


class FrameOnceManager(Manager):  # type: ignore[misc]  # python-socketio has no types
    """Delivers to this worker's clients with one encoding for all of them."""

    def emit(self, event: str, data: Any, namespace: str, room: Any = None, skip_sid: Any = None,
             callback: Any = None, to: Any = None, **kwargs: Any) -> None:
        """As python-socketio's, which is used where every receiver needs an acknowledgement id of its own."""
        if callback is not None:
            super().emit(event, data, namespace, room=room, skip_sid=skip_sid, callback=callback, to=to, **kwargs)
            return
        if namespace not in self.rooms:
            return
        arguments = list(data) if isinstance(data, tuple) else [] if data is None else [data]
        encoded = self.server.packet_class(sio_packet.EVENT, namespace=namespace, data=[event, *arguments]).encode()
        frames = [_frame(part) for part in (encoded if isinstance(encoded, list) else [encoded])]
        skipped = frozenset(skip_sid if isinstance(skip_sid, list) else [skip_sid])
        sockets = self.server.eio.sockets
        for sid, eio_sid in self.get_participants(namespace, to or room):
            connection = sockets.get(eio_sid)
            if connection is not None and sid not in skipped:
                for frame in frames:
                    connection.push(frame)


def _nobody(_room: str) -> list[tuple[str, str]]:
    return []


def _nothing(_sid: str) -> None:
    return None


def _ignore(_sid: str, _there: bool) -> None:
    return None


def _frame(part: str | bytes) -> Frame:
    return Frame(b"4" + part.encode()) if isinstance(part, str) else Frame(part, binary=True)


class ClusterManager(PubSubManager, FrameOnceManager):  # type: ignore[misc]  # python-socketio has no types
    """One worker's end of the message queue."""

    name = "wsapp"

    def __init__(self, channel: str) -> None:
        super().__init__(channel=channel)
        self._outgoing: Queue[bytes] = Queue(QUEUE_LIMIT)
        self._incoming: Queue[bytes] = Queue()
        self._bus: Bus | None = None
        self.members: Callable[[str], list[tuple[str, str]]] = _nobody
        self.left: Callable[[str], None] = _nothing
        self.roomed: Callable[[str, bool], None] = _ignore  # whether a client is in rooms of the host application
        self._own_rooms: dict[str, set[Any]] = {}  # of the host application, in the namespace /, by sid

    def get_participants(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        """Local receivers: those who entered the room the stock way, and subscribers of the wsapp room so named."""
        found = dict(super().get_participants(namespace, room))
        if namespace == "/":
            for name in [room] if isinstance(room, str) else room or []:
                found.update(self.members(name))
        yield from found.items()

    def has_own_rooms(self, sid: str) -> bool:
        """Whether a client is in rooms of the host application."""
        return sid in self._own_rooms

    def basic_enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """As python-socketio's, whose every way into a room leads here."""
        super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        if namespace == "/" and room is not None and room != sid:
            self._own_rooms.setdefault(sid, set()).add(room)
            self.roomed(sid, True)

    def basic_leave_room(self, sid: str, namespace: str, room: Any) -> None:
        """As python-socketio's, whose every way out of a room leads here."""
        super().basic_leave_room(sid, namespace, room)
        rooms = self._own_rooms.get(sid) if namespace == "/" else None
        if rooms is not None:
            rooms.discard(room)
            if not rooms:
                del self._own_rooms[sid]
                self.roomed(sid, False)

    def disconnect(self, sid: str, namespace: str | None = None, **kwargs: Any) -> None:
        """As python-socketio's; the wsapp session of a connection that the host throws out ends with it."""
        if (namespace or "/") == "/":
            self._own_rooms.pop(sid, None)  # it does not leave them: they are lost with the connection
        super().disconnect(sid, namespace=namespace, **kwargs)
        if (namespace or "/") == "/":
            self.left(sid)

    def initialize(self) -> None:
        """Called by python-socketio at the first client; `start` has been there before."""

    def start(self, bus: Bus, links: Links) -> list[gevent.Greenlet]:
        """Listen and publish from now on; returns the greenlets that do."""
        self.host_id = uuid.uuid4().hex
        self._bus = bus
        return [gevent.spawn(self._thread), gevent.spawn(self._publish_forever, links)]

    def on_bus(self, message: bytes) -> None:
        """A message of the shared channel."""
        self._incoming.put(message)

    def _listen(self) -> Iterator[bytes]:
        while True:
            yield self._incoming.get()

    def _publish(self, data: Any) -> None:
        try:
            self._outgoing.put_nowait(strict_dumps(data).encode())
        except Full:
            log.error("the message queue is full: an emit did not reach the other workers")

    def _publish_forever(self, links: Links) -> None:
        while True:
            message = self._outgoing.get()
            while (error := self._published(message)) is not None:
                links.rest_after(error, RETRY_PAUSE)

    def _published(self, message: bytes) -> BrokerUnavailable | None:
        assert self._bus is not None
        try:
            self._bus.publish(message)
        except BrokerUnavailable as error:
            log.warning("emits wait for the message queue: %s", error)
            return error
        return None

    def waiting(self) -> int:
        """Messages that have not yet reached the queue."""
        return int(self._outgoing.qsize())


