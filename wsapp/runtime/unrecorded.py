"""Who was served a publication before it was recorded, so that nobody gets it again when it comes with its number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from wsapp.core.events import Publication
from wsapp.core.session import Session, State, Subscription
from wsapp.runtime.batches import single_frame

LIMIT: Final = 20_000  # publications remembered


class Unrecorded:
    """The publications that this worker passed on while the broker was away."""

    def __init__(self) -> None:
        self._served: OrderedDict[str, set[Session]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._served)

    def remember(self, publication: Publication, sessions: set[Session]) -> None:
        """These have it.  Of very many the oldest are forgotten."""
        if len(self._served) >= LIMIT:
            self._served.popitem(last=False)
        self._served[publication.origin or publication.id] = sessions

    def holds(self, publication: Publication) -> bool:
        """Whether it was passed on here before it was recorded."""
        return (publication.origin or publication.id) in self._served

    def served(self, publication: Publication) -> set[Session]:
        """Those who have it."""
        return self._served.get(publication.origin or publication.id, set())

    def expect(self, session: Session) -> None:
        """A session is back from another connection: the records of what it has seen there may still come."""
        for id in session.seen:
            self._served.setdefault(id, set())
        while len(self._served) > LIMIT:
            self._served.popitem(last=False)

    def others(self, publication: Publication, seq: int, subs: Sequence[Subscription]) -> Sequence[Subscription]:
        """Those who do not have it; the subscriptions of the others have come to `seq` with it.  Who has perhaps got it
        on another connection is sent it again, under the id that it knows."""
        if not self.holds(publication):
            return subs
        served, others = self.served(publication), []
        for sub in subs:
            if sub.session in served:
                sub.sent = max(sub.sent, seq)
            elif publication.origin in sub.session.seen and sub.state is State.LIVE and sub.sent < seq:
                _send_as_seen(sub, publication, seq)
            else:
                others.append(sub)
        return others


def _send_as_seen(sub: Subscription, publication: Publication, seq: int) -> None:
    sub.sent = seq
    session, room = sub.session, sub.room.name
    earlier = takewhile(lambda place: place.room != room, publication.places)
    if not any(place.room in session.subs for place in earlier):
        session.peer.push(single_frame(session.as_seen(publication), session.profile, room))
        sub.count += 1
