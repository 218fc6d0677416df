"""The worker as its own client: a probe goes through the broker and back into a room of the worker's own.

publish (Lua) -> Redis -> this worker's live channel -> Delivery -> a peer.  A port that is open proves nothing about
events: only the probe's return does.  When it stays away the worker says that it is not ready and makes its live
connection anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event

from wsapp.core.events import MAX_PRIORITY, Draft, Lane, Profile, strict_loads
from wsapp.core.ports import Broker
from wsapp.core.session import Session
from wsapp.core.throttle import UserQueue
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime.delivery import Delivery
from wsapp.runtime.recovery import recover
from wsapp.transport.frames import Frame

log = logging.getLogger(__name__)

EVENT: Final = "wsapp-canary"
ROOM: Final = "wsapp-canary:"  # the worker's boot id follows
SLACK: Final = 0.5  # seconds a probe may take beyond the interval
STEPS: Final = 10  # looks for a probe: a worker that was busy for one of them is not judged by it
MEND_PAUSE: Final = 0.3  # seconds that the new live connection gets before the next probe


class Canary:
    """One worker's probe, every `interval` seconds.  `mend()` remakes the live connection, `away(error)` is told when
    the broker does not take the probe.  `failing`: the last probe did not come back; `delay`: how long the last one
    took that did, in seconds; `seen`: how many came."""

    def __init__(self, boot: str, delivery: Delivery, broker: Broker, mend: Callable[[], None],
                 away: Callable[[BrokerUnavailable], None], interval: float) -> None:
        self.sid, self.direct = f"canary-{boot}", None
        self.failing, self.delay, self.seen = False, 0.0, 0
        self._room, self._interval = ROOM + boot, interval
        self._delivery, self._broker, self._mend, self._away = delivery, broker, mend, away
        self._session = Session(self.sid, self.sid, self.sid, self.sid, Profile.PLAIN, self, UserQueue(0),
                                time.monotonic())
        self._number = 0
        self._back = Event()

    # -- the peer of its session

    def push(self, frame: Frame) -> None:
        """As `Peer.push`: the probe that is out, or an older one that was read from history."""
        name, data = strict_loads(frame.payload[2:])[:2]
        if name == EVENT:
            self.seen += 1
            if data["n"] == self._number:
                self._back.set()

    def reads(self) -> bool:
        """As `Peer.reads`."""
        return True

    def lag(self, size: int) -> bool:
        """As `Peer.lag`."""
        return False

    def backlog(self) -> int:
        """As `Peer.backlog`."""
        return 0

    def close(self, code: int, reason: str) -> None:
        """As `Peer.close`: it is never closed."""

    # -- the probe

    def run(self) -> None:
        """Send probes; one greenlet runs this."""
        while True:
            gevent.sleep(self.turn())

    def turn(self) -> float:
        """Send one probe and wait for it; returns the pause in seconds until the next."""
        begun = time.monotonic()
        try:
            self._send()
        except BrokerUnavailable as error:
            self._away(error)
            return self._interval
        if self._came():
            self.delay = time.monotonic() - begun
            if self.failing:
                log.info("events arrive again")
            self.failing = False
            return self._interval
        self.failing = True
        self.metrics.canary_lost += 1
        log.error("events do not arrive: the probe did not come back in %.1f s; the live connection is made anew",
                  time.monotonic() - begun)
        self._mend()
        return MEND_PAUSE

    @property
    def metrics(self) -> Metrics:
        return self._delivery.metrics

    def _send(self) -> None:
        if not self._session.subs:
            recover(self._session, {self._room: None}, self._delivery.registry, self._delivery).release()
        self._number += 1
        self._back.clear()
        self._broker.publish([Draft(EVENT, (self._room,), b'{"n":%d}' % self._number, int(time.time() * 1000),
                                    MAX_PRIORITY, Lane.CRITICAL)])

    def _came(self) -> bool:
        step = (self._interval + SLACK) / STEPS
        return any(self._back.wait(step) for _ in range(STEPS))

    def facts(self) -> dict[str, float]:
        """For the metrics: `canaryDelay` in ms; probes are not counted as messages."""
        return {"canaryDelay": round(self.delay * 1000, 3), "messagesSent": self.metrics.sent - self.seen,
                "eventsDelivered": self.metrics.delivered - self.seen}
