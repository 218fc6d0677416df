"""The fan-out that keeps the ledger: only put in the place of the plain one when WSAPP_LEDGER is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsapp.core.events import Publication
from wsapp.core.lanes import Batch, Shed
from wsapp.core.ledger import Ledger
from wsapp.core.registry import Room
from wsapp.core.session import Session, Subscription
from wsapp.runtime.fanout import Fanout, comes_through, earlier_rooms
from wsapp.transport.frames import Frame


class AccountedFanout(Fanout):
    """`Fanout` that writes down what becomes of every event for every session."""

    def __init__(self, ledger: Ledger, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ledger = ledger
        self._deferred: set[Session] = set()

    def pass_on(self, room: Room, publication: Publication, seq: int) -> None:
        """As `Fanout.pass_on`."""
        for sub in room.live():
            self._owe(sub.session, publication, room.name, seq)
        super().pass_on(room, publication, seq)

    def replay(self, session: Session, publication: Publication, room: str) -> None:
        """As `Fanout.replay`."""
        self._owe(session, publication, room, publication.seq(room))
        super().replay(session, publication, room)
        self.ledger.delivered(session.id, publication.id)

    def moved(self, session: Session, room: str, frame: Frame) -> None:
        """As `Fanout.moved`."""
        super().moved(session, room, frame)
        self.ledger.told(session.id, room, "resync")

    def serve_unrecorded(self, publication: Publication) -> None:
        """As `Fanout.serve_unrecorded`."""
        super().serve_unrecorded(publication)
        for session in self._unrecorded[publication.origin or publication.id]:
            self._owe(session, publication, publication.places[0].room, 0)
            self.ledger.delivered(session.id, publication.id)

    def _owe(self, session: Session, publication: Publication, room: str, seq: int) -> None:
        self.ledger.owed(session.id, publication.id, room, seq, publication.entity)

    def _serve(self, room: Room, publication: Publication, seq: int, subs: Sequence[Subscription]) -> None:
        for sub in subs:
            self._owe(sub.session, publication, room.name, seq)
        self._deferred = set()
        super()._serve(room, publication, seq, subs)
        earlier = earlier_rooms(publication, room.name)
        for sub in subs:
            # Nothing was sent to one that has left; what comes through another room is closed there.
            if sub.session not in self._deferred and sub.sent >= seq and not comes_through(sub.session, earlier):
                self.ledger.delivered(sub.session.id, publication.id)

    def _defer(self, sub: Subscription, publication: Publication, seq: int, now: float) -> None:
        self._deferred.add(sub.session)
        super()._defer(sub, publication, seq, now)

    def _emit(self, user_id: str, sid: str, batches: list[Batch]) -> None:
        super()._emit(user_id, sid, batches)
        session = self.session_of(sid)
        if session is None:
            return
        for batch in batches:
            for wait in batch.waits:
                self.ledger.delivered(session.id, wait.id)
                if wait.merged:
                    self.ledger.merged(session.id, wait.room, wait.entity, wait.id)

    def _tell_shed(self, user_id: str, sid: str, sheds: list[Shed]) -> None:
        super()._tell_shed(user_id, sid, sheds)
        session = self.session_of(sid)
        for shed in sheds if session is not None else ():
            self.ledger.shed(session.id, shed.room, shed.first, shed.last, shed.reason)  # type: ignore[union-attr]
