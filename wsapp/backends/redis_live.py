"""The live connection: one pub/sub connection for all rooms, the stock channel and this worker's control channel.

Confirmations (RESP2 pub/sub pushes, `subscribe channel count`) are counted per channel: a room that is left and
joined again at once has two SUBSCRIBEs under way, and only the answer to the last one proves that nothing is missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import hiredis

from wsapp.backends.redis_errors import Explained, unavailable
from wsapp.backends.redis_keys import RedisKeys
from wsapp.backends.redis_scripts import Command
from wsapp.backends.redis_wire import CHECK_EVERY, CHUNK, FAILURES, Address, RedisWire, open_wire, pack
from wsapp.core.link import Backoff
from wsapp.core.ports import LiveSocket, Reading
from wsapp.errors import BrokerUnavailable

log = logging.getLogger("wsapp.backends.live")

BATCH: Final = 1000  # channels in one SUBSCRIBE
PING_EVERY: Final = 2.0  # seconds of silence until we ask
LOOK: Final = 0.5  # seconds between looks at a silent connection
PING_WITHIN: Final = 2.0  # seconds the answer may take
OPEN_WITHIN: Final = 1.0  # seconds a new connection may take: nobody waits for it
FIRST_DELAY: Final = 0.05
LONGEST_DELAY: Final = 1.0


class _Confirmation:
    """Somebody who waits until channels are confirmed."""

    __slots__ = ("done", "left")

    def __init__(self, channels: Iterable[bytes]) -> None:
        self.left = set(channels)
        self.done = threading.Event()


def read_by_thread(sock: LiveSocket, take: Callable[[bytes], bool], settle: Callable[[], None]) -> None:
    """As `Reading`: the calling thread blocks in `recv`."""
    while data := sock.recv(CHUNK):
        if take(data):
            settle()
        if len(data) == CHUNK:
            time.sleep(0)  # a flood must not starve the process's other threads
    raise ConnectionResetError("the server closed the connection")


class RedisLive:
    """Reads on a thread of its own; `subscribe` and `unsubscribe` may be called from any other.  `lost` is called when
    the connection has ended, and once more when a new one is made.  `reading` is how bytes are waited for."""

    record_kind = b"message"  # what the server calls a record of a room

    def __init__(self, address: Address, keys: RedisKeys, channel: str, timeout: float,
                 reading: Reading = read_by_thread) -> None:
        self._address, self._keys, self._timeout, self._reading = address, keys, timeout, reading
        self._prefix, self._stock = keys.room_channels.encode(), channel.encode()
        self._lock = threading.Lock()  # orders what is sent with what is expected
        self._wire: RedisWire | None = None
        self._wanted: set[bytes] = set()
        self._pending: dict[bytes, int] = {}
        self._waiting: list[_Confirmation] = []
        self._rooms: dict[bytes, str] = {}
        self._unsettled: deque[Any] = deque()  # messages that are not records
        self._others: dict[bytes, Callable[[bytes], None]] = {}
        self._closing = threading.Event()
        self._hurry = threading.Event()
        self._listening = False  # whether all that is wanted is subscribed
        self._thread: threading.Thread | None = None
        self._away, self._reason = True, "the live connection was not started"
        self._asked_at: float | None = None
        self._heard, self._silent = 0.0, ""
        self.lost: Callable[[], None] = _nothing

    def start(self, boot: str, on_record: Callable[[str, bytes], None], on_gap: Callable[[], None],
              on_bus: Callable[[bytes], None], on_control: Callable[[bytes], None]) -> None:
        """As `Backend.start`.  Raises RuntimeError when it was started or closed before."""
        if self._thread is not None or self._closing.is_set():
            raise RuntimeError("a live connection is started once")
        self._on_record, self._on_gap = on_record, on_gap
        if self._keys.number == 0:  # the other partitions have rooms alone
            control = (self._keys.control_channels + boot).encode()
            self._others = {self._stock: on_bus, self._keys.bus.encode(): on_bus, control: on_control}
        self._away, self._reason = False, f"Redis at {self._address.where}: not connected yet"
        self._thread = threading.Thread(target=self._run, name="wsapp-live", daemon=True)
        self._thread.start()

    @property
    def deaf(self) -> str | None:
        """As `Backend.deaf`."""
        if self._listening:
            return None
        return self._reason if self._wire is None else f"Redis at {self._address.where}: subscribing"

    def subscribe(self, rooms: Sequence[str]) -> None:
        """As `Broker.subscribe`.  Raises BrokerUnavailable (at once while the server is known to be away); the rooms
        stay wanted.  Not for callbacks of this connection: they would wait for themselves."""
        channels = {self._prefix + room.encode(): room for room in rooms}
        if not channels:
            return
        with self._lock:
            self._rooms.update(channels)
            fresh = [channel for channel in channels if channel not in self._wanted]
            self._wanted.update(fresh)
            if self._wire is not None:
                self._send("SUBSCRIBE", fresh)
                unconfirmed = [channel for channel in channels if channel in self._pending]
            elif self._away:
                raise BrokerUnavailable(self._reason)
            else:
                unconfirmed = list(channels)
            if not unconfirmed:
                return
            confirmation = _Confirmation(unconfirmed)
            self._waiting.append(confirmation)
        if confirmation.done.wait(self._timeout):
            return
        with self._lock:
            if confirmation in self._waiting:
                self._waiting.remove(confirmation)
                raise BrokerUnavailable(self._reason if self._wire is None else
                                        str(unavailable(TimeoutError(), self._address.where, self._timeout)))

    def unsubscribe(self, rooms: Sequence[str]) -> None:
        """As `Broker.unsubscribe`."""
        with self._lock:
            channels = [self._prefix + room.encode() for room in rooms]
            known = [channel for channel in channels if channel in self._wanted]
            self._wanted.difference_update(known)
            for channel in known:
                del self._rooms[channel]
            if self._wire is not None:
                self._send("UNSUBSCRIBE", known)

    def _send(self, verb: str, channels: Sequence[bytes]) -> None:
        """Send under the lock.  A failure is the reader's to notice: it makes a new connection."""
        wire = self._wire
        if wire is None or not channels:
            return
        commands = self._commands(verb, channels)
        if verb == "SUBSCRIBE":
            for channel in channels:
                self._pending[channel] = self._pending.get(channel, 0) + 1
        try:
            wire.sock.sendall(pack(commands))
        except OSError as error:
            log.warning("live connection: sending failed: %s", error)
            wire.shutdown()

    def _commands(self, verb: str, channels: Sequence[bytes]) -> list[Command]:
        return [(verb, *channels[i:i + BATCH]) for i in range(0, len(channels), BATCH)]

    def _confirm(self, channel: bytes) -> None:
        with self._lock:
            left = self._pending.get(channel, 0) - 1
            if left > 0:
                self._pending[channel] = left
                return
            self._pending.pop(channel, None)
            for confirmation in self._waiting:
                confirmation.left.discard(channel)
                if not confirmation.left:
                    confirmation.done.set()
            self._waiting = [c for c in self._waiting if c.left]

    def _run(self) -> None:
        backoff, gap = Backoff(FIRST_DELAY, LONGEST_DELAY), False
        while not self._closing.is_set():
            begun, there = time.monotonic(), True
            self._hurry.clear()
            try:
                wire = open_wire(self._address, self._keys, max(self._timeout, OPEN_WITHIN))
            except FAILURES as error:
                reason, there = str(unavailable(error, self._address.where, self._timeout)), False
            else:
                if gap:
                    self._call(self.lost)  # what was opened meanwhile may lead elsewhere
                reason = self._serve(wire, gap)
                if time.monotonic() - begun > LONGEST_DELAY:
                    backoff.reset()
            if self._closing.is_set():
                break
            self._away, self._reason, gap = True, reason, True
            self._call(self.lost)
            (log.warning if backoff.failures == 0 else log.debug)("live connection: %s", reason)
            delay = backoff.next_s()
            self._closing.wait(min(delay, FIRST_DELAY))
            if delay > FIRST_DELAY:
                # a server that takes connections, and throws this one out, is not to be hurried back to
                (self._closing if there else self._hurry).wait(delay - FIRST_DELAY)

    def hurry(self) -> None:
        """The server was reached by somebody else: if it was away, don't wait out the pause before the next attempt.
        What is published until then by others, and not recorded, nobody here gets."""
        self._hurry.set()

    def _serve(self, wire: RedisWire, gap: bool) -> str:
        """Subscribe to all that is wanted and read until the connection ends; why it ended."""
        self._heard, self._asked_at, self._silent = time.monotonic(), None, ""
        watch = threading.Thread(target=self._watch_over, args=(wire,), name="wsapp-live-watch", daemon=True)
        with self._lock:
            self._wire, self._away = wire, False
            channels = [*self._others, *self._wanted]
            confirmation = _Confirmation(channels)
            self._waiting.append(confirmation)
            self._send("SUBSCRIBE", channels)
        watch.start()
        try:
            self._read(wire, confirmation, gap)
            return "closed"
        except FAILURES as error:
            why = Explained(self._silent) if self._silent else error
            return str(unavailable(why, self._address.where, PING_WITHIN))
        finally:
            with self._lock:
                self._wire, self._listening = None, False
                self._pending.clear()
                if confirmation in self._waiting:
                    self._waiting.remove(confirmation)
                wire.close()

    def _read(self, wire: RedisWire, wanted: _Confirmation, gap: bool) -> None:
        feed, dispatch, clock = wire.reader.feed, partial(self._dispatch, wire.reader), time.monotonic

        def take(data: bytes) -> bool:
            self._heard, self._asked_at = clock(), None
            feed(data)
            dispatch()
            return bool(self._unsettled)

        def settle() -> None:
            while self._unsettled:
                self._notice(self._unsettled.popleft())
            if not self._listening and not wanted.left:
                self._listening = True
                if gap:
                    self._call(self._on_gap)

        self._unsettled.clear()
        wire.wait_for_ever()
        self._listening = not wanted.left  # in a partition in which nobody is
        self._reading(wire, take, settle)

    def _watch_over(self, wire: RedisWire) -> None:
        """Beside the reader, which waits without a timeout (a timer for every wait would cost more than a message):
        ask in silence whether the server is there, and end the connection when it is not or when another is the
        primary by now."""
        checked = self._heard
        while not self._closing.wait(LOOK) and self._wire is wire:
            now = time.monotonic()
            if self._address.moves and now - checked >= CHECK_EVERY:
                checked = now
                if self._address.moved(wire.connection, self._timeout):
                    self._silent = "another server is the primary now"
                    wire.shutdown()
                    return
            if self._asked_at is not None and now - self._asked_at >= PING_WITHIN:
                self._silent = f"no answer to PING within {PING_WITHIN:g} s"
                wire.shutdown()
                return
            if self._asked_at is None and now - self._heard >= PING_EVERY:
                self._ask(wire, now)

    def _ask(self, wire: RedisWire, now: float) -> None:
        self._asked_at = now
        with self._lock:
            try:
                wire.sock.sendall(pack([("PING",)]))
            except OSError as error:
                log.debug("live connection: the reader will notice: %s", error)

    def _dispatch(self, reader: hiredis.Reader) -> None:
        """Pass on every record that is complete: the hot loop of a worker that listens.  It never waits; other messages
        are left for `_notice`."""
        gets, rooms, on_record, kind = reader.gets, self._rooms, self._on_record, self.record_kind
        while (message := gets()) is not False:
            if type(message) is not list or message[0] != kind or (room := rooms.get(message[1])) is None:
                self._unsettled.append(message)
                continue
            try:
                on_record(room, message[2])
            except Exception:
                log.exception("a record of %s was not delivered", room)

    def _other(self, channel: bytes, body: bytes) -> None:
        """The stock or the control channel; or a room that was left a moment ago."""
        handler = self._others.get(channel)
        if handler is not None:
            self._call(handler, body)

    def _notice(self, message: Any) -> None:
        if isinstance(message, hiredis.ReplyError):
            raise message
        kind = message[0] if type(message) is list else None
        if kind == b"subscribe":
            self._confirm(message[1])
        elif kind == b"message":
            self._other(message[1], message[2])

    def _call(self, handler: Callable[..., None], *arguments: object) -> None:
        """Run a callback; what it raises is its own error and must not end the reading."""
        try:
            handler(*arguments)
        except Exception:
            log.exception("a callback of the live connection failed")

    def reconnect(self) -> None:
        """Cut the connection; the reader makes a new one, subscribes again and calls `on_gap`."""
        with self._lock:
            if self._wire is not None:
                self._silent = "the live connection is made anew"
                self._wire.shutdown()

    def close(self) -> None:
        """End the thread (waiting for it at most a second) and the connection.  Idempotent."""
        self._closing.set()
        self._hurry.set()
        with self._lock:
            if self._wire is not None:
                self._wire.shutdown()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)


def _nothing() -> None:
    return None
