"""The fan-out that keeps the ledger: only put in the place of the plain one when WSAPP_LEDGER is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsapp.core.events import Publication
from wsapp.core.lanes import Batch, Shed
from wsapp.core.ledger import Ledger
from wsapp.core.registry import Room, Turn
from wsapp.core.session import Session, Subscription
from wsapp.runtime.fanout import Fanout, comes_through, earlier_rooms
from wsapp.transport.frames import Frame


class AccountedFanout(Fanout):
    """`Fanout` that writes down what becomes of every event for every session."""

    def __init__(self, ledger: Ledger, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ledger = ledger
        self._deferred: set[tuple[Session, str]] = set()

    def pass_on(self, room: Room, publication: Publication, seq: int) -> None:
        """As `Fanout.pass_on`."""
        for sub in room.live():
            self._owe(sub.session, publication, room.name, seq)
        super().pass_on(room, publication, seq)

    def replay(self, session: Session, run: Sequence[tuple[str, Publication]]) -> None:
        """As `Fanout.replay`."""
        super().replay(session, run)
        for room, publication in run:
            self._owe(session, publication, room, publication.seq(room))
            self.ledger.delivered(session.id, publication.id)

    def skip(self, session: Session, shed: Shed, skipped: Sequence[Publication]) -> None:
        """As `Fanout.skip`."""
        super().skip(session, shed, skipped)
        for publication in skipped:
            self._owe(session, publication, shed.room, publication.seq(shed.room))
        self.ledger.shed(session.id, shed.room, shed.first, shed.last, shed.reason)

    def again(self, session: Session, publication: Publication) -> None:
        """A copy of a critical event was sent: to a session that has it, or that did not exist the first time."""
        place = next((one for one in publication.places if one.room in session.subs), publication.places[0])
        self._owe(session, publication, place.room, place.seq)
        self.ledger.repeated(session.id, publication.id)

    def moved(self, session: Session, room: str, frame: Frame) -> None:
        """As `Fanout.moved`."""
        super().moved(session, room, frame)
        self.ledger.told(session.id, room, "resync")

    def serve_unrecorded(self, publication: Publication) -> None:
        """As `Fanout.serve_unrecorded`."""
        super().serve_unrecorded(publication)
        for session in self.unrecorded.served(publication):
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
            if ((sub.session, publication.id) not in self._deferred and sub.sent >= seq
                    and not comes_through(sub.session, earlier)):
                self.ledger.delivered(sub.session.id, publication.id)

    def _serve_joined(self, room: Room, turn: Turn, subs: Sequence[Subscription]) -> list[Subscription]:
        self._deferred = set()
        others = super()._serve_joined(room, turn, subs)
        for sub in set(subs).difference(others):
            for publication, seq in turn.items:
                self._owe(sub.session, publication, room.name, seq)
                if (sub.session, publication.id) not in self._deferred:
                    self.ledger.delivered(sub.session.id, publication.id)
        return others

    def _defer(self, sub: Subscription, publication: Publication, seq: int, now: float) -> None:
        self._deferred.add((sub.session, publication.id))
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
