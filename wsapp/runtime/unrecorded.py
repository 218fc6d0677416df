"""Who was served a publication before it was recorded, so that nobody gets it again when it comes with its number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from wsapp.core.events import Publication
from wsapp.core.session import Session, Subscription

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
        self._served[publication.id] = sessions

    def holds(self, publication: Publication) -> bool:
        """Whether it was passed on here before it was recorded."""
        return (publication.id) in self._served

    def served(self, publication: Publication) -> set[Session]:
        """Those who have it."""
        return self._served.get(publication.id, set())

    def others(self, publication: Publication, seq: int, subs: Sequence[Subscription]) -> Sequence[Subscription]:
        """Those who do not have it; the subscriptions of the others have come to `seq` with it."""
        if not self.holds(publication):
            return subs
        served, others = self.served(publication), []
        for sub in subs:
            if sub.session in served:
                sub.sent = max(sub.sent, seq)
            else:
                others.append(sub)
        return others
