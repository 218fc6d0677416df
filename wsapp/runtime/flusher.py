"""What members are behind with, sent when their users' rates allow it.

One flush every interval brings each user who has a token one frame for each of its sessions.  Sessions that stand at
the same place share the frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event

from wsapp.core.backlog import SHED_SNAPSHOTS, Batch, Shed, coalesce
from wsapp.core.connections import ConnectionManager
from wsapp.core.events import packet
from wsapp.core.ledger import Ledger
from wsapp.core.session import Session, Subscription
from wsapp.metrics import Metrics
from wsapp.runtime.batches import batch_frame
from wsapp.transport.frames import Frame

USERS_AT_ONCE: Final = 64  # users flushed before other rooms and clients get their turn
MOST_UNREPORTED: Final = 100  # separate runs of shed events kept for a client that does not read


class Flusher:
    """The throttle's side of a worker's fan-out."""

    def __init__(self, connections: ConnectionManager, metrics: Metrics, ledger: Ledger | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.connections, self.throttler, self.metrics = connections, connections.throttler, metrics
        self.ledger, self._clock, self._waiting = ledger, clock, Event()
        self.throttler.on_emit(self._emit)
        self.throttler.on_shed(self._report_shed)

    def fall_behind(self, sub: Subscription, now: float) -> None:
        """Nothing of the room is sent to this member until the next flush."""
        sub.behind = True
        if sub.box is not None and sub.box.crowded and not sub.box.lagging:
            self.metrics.count("slowDeferred")
        self.throttler.behind(sub.session.user_id, sub.session.sid, sub.room.name, sub, now)
        self._waiting.set()

    def run(self) -> None:
        """Flush what waits, every flush interval while there is any; one greenlet runs this."""
        while True:
            due = self.throttler.next_flush
            if due is None:
                self._waiting.clear()
                self._waiting.wait()
                continue
            gevent.sleep(max(0.0, due - self._clock()))
            for number, _ in enumerate(self.throttler.flush_each(self._clock()), 1):
                if number % USERS_AT_ONCE == 0:
                    gevent.sleep(0)

    def _emit(self, _user_id: str, sid: str, batches: list[Batch]) -> None:
        session = self.connections.session(sid)
        if session is None:
            return
        if session.unreported:
            self._report_now(session)
        for frame, count in batch_frame(batches, session.profile):
            session.peer.push(frame)
            session.sent += 1
            self.metrics.sent += 1
            self.metrics.delivered += count
        for batch in batches:
            for wait in batch.waits if self.ledger is not None else ():
                self.ledger.delivered(session.id, wait.id)  # type: ignore[union-attr]
                if wait.merged:
                    self.ledger.merged(session.id, wait.room, wait.entity, wait.id)  # type: ignore[union-attr]

    def _report_shed(self, _user_id: str, sid: str, sheds: list[Shed]) -> None:
        session = self.connections.session(sid)
        self.metrics.shed += sum(shed.count for shed in sheds)
        if any(shed.reason == SHED_SNAPSHOTS for shed in sheds):
            self.metrics.count("slowSnapshots")
        if session is None:
            return
        session.unreported = coalesce((session.unreported or []) + sheds)
        if session.peer.reads() or len(session.unreported) > MOST_UNREPORTED:
            self._report_now(session)
        for shed in sheds if self.ledger is not None else ():
            self.ledger.shed(session.id, shed.room, shed.first, shed.last, shed.reason)  # type: ignore[union-attr]

    def _report_now(self, session: Session) -> None:
        """What was shed is reported once the client reads again, runs joined."""
        unreported, session.unreported = session.unreported or [], None
        for shed in unreported:
            session.peer.push(Frame(packet("shed", shed.told())))
