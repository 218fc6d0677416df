"""The way from polling to a WebSocket (Engine.IO v4, "Upgrade")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gevent

from wsapp.errors import CloseCode
from wsapp.transport.frames import TEXT, Frame, Squeeze
from wsapp.transport.polling import PollQueue

if TYPE_CHECKING:
    from wsapp.transport.connection import Connection

PROBE_ANSWER: Final = Frame(b"3probe")


class Probe:
    """A WebSocket beside the polling of a connection: it takes over once the client has probed it."""

    __slots__ = ("_connection", "_queue", "ws")

    def __init__(self, connection: Connection, queue: PollQueue, sock: Any, squeeze: Squeeze | None) -> None:
        self._connection, self._queue = connection, queue
        self.ws = connection.make_websocket(sock, self._heard, self._ended, squeeze)

    def start(self, early: bytes, timeout: float) -> None:
        """Begin to read; not finished in `timeout` seconds, it is closed."""
        self.ws.start(early)
        gevent.spawn_later(timeout, self._give_up)

    def _give_up(self) -> None:
        if self._connection.probe is self:
            self.ws.close(CloseCode.POLICY, "the upgrade was not finished in time")

    def _ended(self, _reason: str) -> None:
        self._connection.probe = None

    def _heard(self, opcode: int, payload: bytes) -> None:
        connection = self._connection
        if connection.closed:
            return
        if opcode == TEXT and payload == b"2probe":
            self.ws.send(PROBE_ANSWER)
            self._queue.end()
        elif opcode == TEXT and payload == b"5":
            connection.take_over(self.ws)
        else:
            self.ws.close(CloseCode.PROTOCOL_ERROR, "an upgrade is 2probe, then 5")
