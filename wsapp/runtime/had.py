"""Who has an event already in another way than through the room that brings it now.

Two cases: it was served while Redis was away, before it was recorded; or it is in rooms of several partitions, whose
records do not name each other.  Both remember the sessions by the event's id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from wsapp.core.events import Publication
from wsapp.core.partitions import SPREAD, partition_of
from wsapp.core.session import Session

LIMIT: Final = 20_000  # events remembered; the oldest are forgotten

ANY: Final = -1  # stands for the partition of what was not recorded yet


class Had:
    """The events that some sessions of this worker have, and which."""

    def __init__(self, partitions: int = 1) -> None:
        self._partitions = partitions
        self._by_id: OrderedDict[str, dict[int, set[Session]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def remember(self, publication: Publication, sessions: Iterable[Session], partition: int = ANY) -> None:
        """These have it.  Of very many events the oldest are forgotten."""
        self._by_id.setdefault(publication.id, {}).setdefault(partition, set()).update(sessions)
        if len(self._by_id) > LIMIT:
            self._by_id.popitem(last=False)

    def add(self, publication: Publication, room: str, sessions: Iterable[Session]) -> None:
        """These got it through `room`; only of an event in several partitions that says anything."""
        if SPREAD in publication.flags:
            self.remember(publication, sessions, partition_of(room, self._partitions))

    def sessions(self, publication: Publication, room: str) -> set[Session] | frozenset[Session]:
        """Those who do not need it through `room`."""
        found = self._by_id.get(publication.id)
        if not found:
            return frozenset()
        here = partition_of(room, self._partitions) if SPREAD in publication.flags else None
        return set().union(*(some for partition, some in found.items() if partition != here))

    def has(self, session: Session, publication: Publication, room: str) -> bool:
        """Whether a session has it already."""
        return session in self.sessions(publication, room)
