"""A socket's two ends under the hub: readers by callback, writers straight into the kernel.

A connected client costs no greenlet: the hub calls `on_data` when bytes came, and `write` sends at once without
blocking.  Only what the kernel does not take waits in the outbox, joined and sent by a write watcher that exists
just as long; the outbox is bounded in bytes and in age.
"""

from __future__ import annotations

import _socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from gevent import get_hub

READ_SIZE: Final = 65536
JOIN_SIZE: Final = 65536  # as much of the outbox as one send is offered
CROWDED: Final = 131072  # bytes from which on the fan-out no longer adds to an outbox ...
RELIEVED: Final = 32768  # ... until so few are left
FAR: Final = 4  # the part of `max_bytes` that may be held back before only snapshots are kept


class Outbox:
    """The two ends of one connected socket.  All methods may be called from any greenlet and from the hub; none
    blocks or raises.  `on_closed(reason)` is called once, when the connection has ended for whatever cause;
    `on_full()` once, when more waits or was held back than `max_bytes` without the client reading any.

    `send` is the kernel's own send while nothing waits, else None: a fan-out calls it without a detour and hands what
    it did not take to `rest`; `on_route()` is called whenever it changes.  `squeezed` says whether the peer takes
    compressed frames.
    """

    __slots__ = ("_closing", "_ended", "_fin", "_full", "_io", "_on_closed", "_on_data", "_on_full", "_send", "_sock",
                 "_timer", "_waiting", "_write", "_written_at", "crowded", "lagging", "max_age", "max_bytes",
                 "on_route", "send", "squeezed", "waiting_bytes")

    def __init__(self, sock: Any, on_data: Callable[[bytes], None], on_closed: Callable[[str], None],
                 max_bytes: int, max_age: float, on_full: Callable[[], None] | None = None) -> None:
        self._sock, self._on_data, self._on_closed = sock, on_data, on_closed
        self._on_full = on_full or self._give_up
        self.on_route: Callable[[], None] = _nothing
        self.send: Callable[[bytes], int] | None = sock.send
        self._send = sock.send
        self.squeezed = self.crowded = self._full = False
        self._waiting: deque[bytes] | None = None
        self.waiting_bytes = self.lagging = 0
        self._written_at = 0.0
        self.max_bytes, self.max_age = max_bytes, max_age
        self._closing = self._ended = self._fin = False
        self._write: Any = None
        self._timer: Any = None
        self._io = get_hub().loop.io(sock.fileno(), 1)

    def start(self) -> None:
        """Begin to read."""
        self._io.start(self._readable)

    def pause(self) -> None:
        """Stop reading: the client's next bytes wait in the kernel, and it feels the backpressure."""
        if self._io is not None:
            self._io.stop()

    def resume(self) -> None:
        """Read again."""
        if self._io is not None and not self._io.active:
            self._io.start(self._readable)

    @property
    def closed(self) -> bool:
        return self._io is None

    def write(self, data: bytes) -> None:
        """Send now if the kernel takes it, else keep the rest in order."""
        if self._closing:
            return  # nothing follows a close frame (RFC 6455 section 5.5.1)
        if self._waiting is not None:
            self._queue(data)
            return
        try:
            sent = self._send(data)
        except (OSError, ValueError) as error:
            self.trouble(data, error)
            return
        if sent != len(data):
            self.rest(data, sent)

    def trouble(self, data: bytes, error: Exception) -> None:
        """`send` raised: the kernel's buffer is full, or the connection is broken."""
        if isinstance(error, BlockingIOError):
            self.rest(data, 0)
        else:
            self._failed(error)

    def lag(self, size: int) -> bool:
        """So much was held back from this client, which does not read; counts until it does.  Whether it is
        `far_behind` now."""
        self.lagging += size
        if self.lagging + self.waiting_bytes > self.max_bytes:
            self._overflow()
        return self.far_behind

    @property
    def far_behind(self) -> bool:
        """Whether so much was held back that the client is better off with snapshots than with all of it."""
        return self.lagging > self.max_bytes / FAR

    def cut(self, last: bytes, grace: float) -> None:
        """Forget what waits except what is partly sent, end with `last`, and then as `finish`."""
        if self._waiting is not None:
            head = self._waiting.popleft()
            self._waiting = deque((head, last))
            self.waiting_bytes = len(head) + len(last)
        else:
            self.write(last)
        self._ended = True  # once that is written, nothing is waited for
        self.finish(grace)

    def finish(self, grace: float) -> None:
        """Stop taking writes; send what waits, and end the TCP connection when the peer does, at the latest in `grace`
        seconds.  Not as soon as the kernel has taken all: closing with unread bytes resets the connection, and what
        the peer has not read yet would be lost."""
        self._closing = True
        self._route(None)
        if self._timer is None and self._io is not None:
            self._timer = get_hub().loop.timer(grace)
            self._timer.start(self.abort, "closed")

    def hang_up(self, grace: float) -> None:
        """As `finish`, and tell the peer by TCP too that nothing more comes: it is not waited for to say goodbye."""
        self.finish(grace)
        self._fin = True
        if self._waiting is None:
            self._shut()

    def _shut(self) -> None:
        try:
            if self._sock is not None:
                self._sock.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster

    def half_close(self, grace: float) -> None:
        """Both sides have said goodbye: end the TCP connection as soon as nothing waits, at the latest in `grace`
        seconds."""
        self._ended = True
        if self._waiting is None:
            self.abort("closed")
        else:
            self.finish(grace)

    def abort(self, reason: str) -> None:
        """End the TCP connection now.  Idempotent."""
        if self._io is None:
            return
        self._io.close()
        self._io = None
        if self._write is not None:
            self._write.close()
        if self._timer is not None:
            self._timer.close()
        self._write = self._timer = self._waiting = None
        self.waiting_bytes = 0
        self._send = _refuse
        self._route(None)
        sock, self._sock = self._sock, None
        try:
            # close() alone leaves the connection open while another process holds a copy of the descriptor.
            sock.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster
        sock.close()
        on_closed, self._on_closed, self._on_data, self._on_full = self._on_closed, _ignore, _ignore, _nothing
        on_closed(reason)

    # -- the hub's side

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        if data:
            self._on_data(data)
        else:
            self.abort("transport close")

    def _failed(self, error: Exception) -> None:
        # Called in the middle of a fan-out: the books are straightened after it, by the hub.
        self._send = _refuse
        self._route(None)
        if self._io is not None:
            get_hub().loop.run_callback(self.abort, f"transport error: {error}")

    def rest(self, data: bytes, sent: int) -> None:
        """The kernel took only `sent` bytes of `data`: keep the others and send them when it takes more."""
        if self._io is None:
            return
        self._waiting = deque((data[sent:] if sent else data,))
        self.waiting_bytes = len(self._waiting[0])
        self._written_at = time.monotonic()
        self._route(None)
        self._write = get_hub().loop.io(self._sock.fileno(), 2)
        self._write.start(self._writable)

    def _queue(self, data: bytes) -> None:
        assert self._waiting is not None
        self._waiting.append(data)
        self.waiting_bytes += len(data)
        if self.waiting_bytes > CROWDED:
            self.crowded = True
            if self.waiting_bytes > self.max_bytes:
                self._overflow()

    def _overflow(self) -> None:
        # Not here and now: this is the middle of somebody's fan-out.
        if not self._full and self._io is not None:
            self._full = True
            get_hub().loop.run_callback(self._tell_full)

    def _tell_full(self) -> None:
        self._on_full()

    def _give_up(self) -> None:
        self.abort("the client does not read")

    def overdue(self, now: float) -> bool:
        """Whether nothing could be written for longer than the outbox may age."""
        return self._waiting is not None and now - self._written_at > self.max_age

    def _writable(self) -> None:
        assert self._waiting is not None
        data = self._joined()
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except (OSError, ValueError) as error:
            self._failed(error)
            return
        if sent:
            self._written_at = time.monotonic()
            self.waiting_bytes -= sent
            self.lagging = 0
            if self.waiting_bytes < RELIEVED:
                self.crowded = False
        if sent < len(data):
            self._waiting.appendleft(data[sent:])
        elif not self._waiting:
            self._drained()

    def _joined(self) -> bytes:
        waiting = self._waiting
        assert waiting is not None
        if len(waiting) == 1:
            return waiting.popleft()
        parts, size = [], 0
        while waiting and size < JOIN_SIZE:
            parts.append(waiting.popleft())
            size += len(parts[-1])
        return b"".join(parts)

    def _drained(self) -> None:
        self._waiting = None
        self._write.close()
        self._write = None
        if self._ended:
            self.abort("closed")
        elif self._fin:
            self._shut()
        elif not self._closing:
            self._route(self._send)

    def _route(self, send: Callable[[bytes], int] | None) -> None:
        self.send = send
        self.on_route()


def _refuse(_data: bytes) -> int:
    return len(_data)


def _ignore(_value: Any) -> None:
    return None


def _nothing() -> None:
    return None
