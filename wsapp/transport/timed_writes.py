"""Answers to clients that do not read them: each part has to be taken within a time, else the client is cut off.

pywsgi would wait for ever, and what it waits with stays in memory: the rest of the answer, and whatever made it.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any, Final

import gevent

log = logging.getLogger(__name__)

WRITE_TIMEOUT: Final = 30.0  # seconds
PART: Final = 65_536  # bytes that must be taken within that time: a reader may be slow, but no slower


class TimedWrites:
    """For pywsgi's handler, before it among the bases.  `server.write_timeout` is in seconds, `server.on_dawdler()`
    is told of each client that was cut off."""

    server: Any
    socket: Any

    def _sendall(self, data: Any) -> None:
        whole = memoryview(data)
        for start in range(0, len(whole), PART):
            # As if the client had gone, which pywsgi takes in its stride; a TimeoutError it would log as a fault.
            late = BrokenPipeError(errno.EPIPE, "the client does not read its answer")
            with gevent.Timeout(self.server.write_timeout, late):
                self._send_part(whole[start:start + PART], late)

    def _send_part(self, part: memoryview, late: BrokenPipeError) -> None:
        try:
            super()._sendall(part)  # type: ignore[misc]  # pywsgi's
        except BrokenPipeError as error:
            if error is late:
                self._cut_off()
            raise

    def _cut_off(self) -> None:
        self.server.on_dawdler()
        log.info("%s does not read its answer: cut off", self.server.address)
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("the client was faster: %s", error)
