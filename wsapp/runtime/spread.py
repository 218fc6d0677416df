"""The fan-out where rooms are divided over partitions: an event of several of them comes once per partition.

Each part arrives by itself, whichever first, and a client that is in rooms of both gets the first.  So this worker
remembers for a while who was served such an event through which partition.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from wsapp.core.events import Publication
from wsapp.core.partitions import SPREAD, partition_of
from wsapp.core.registry import Room
from wsapp.core.session import Session, State, Subscription
from wsapp.runtime.accounting import AccountedFanout
from wsapp.runtime.fanout import Fanout, comes_through, earlier_rooms

REMEMBERED: Final = 20_000  # events

Served = list[tuple[int, Sequence[Subscription]]]  # through which partition, and who


class SpreadFanout(Fanout):
    """`Fanout` over `partitions`.  An event without the flag of several partitions costs one look at its flags."""

    def __init__(self, *arguments: Any, partitions: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._partitions = partitions
        self._served: OrderedDict[str, Served] = OrderedDict()

    def _joins(self, room: Room, publication: Publication) -> bool:
        return SPREAD not in publication.flags and super()._joins(room, publication)

    def _serve(self, room: Room, publication: Publication, seq: int, subs: Sequence[Subscription]) -> None:
        if SPREAD in publication.flags:
            subs = self._newly(room, publication, seq, subs)
        super()._serve(room, publication, seq, subs)

    def _newly(self, room: Room, publication: Publication, seq: int,
               subs: Sequence[Subscription]) -> Sequence[Subscription]:
        """Who does not have it through another partition; these get it now."""
        here, served = partition_of(room.name, self._partitions), self._remember(publication)
        had = {sub.session for partition, some in served if partition != here for sub in some}
        if had:
            for sub in subs:
                if sub.session in had and sub.state is State.LIVE:
                    sub.sent = max(sub.sent, seq)
            subs = [sub for sub in subs if sub.session not in had]
        earlier = earlier_rooms(publication, room.name)
        passed = [sub for sub in subs
                  if sub.state is State.LIVE and sub.sent < seq and not comes_through(sub.session, earlier)]
        served.append((here, subs if len(passed) == len(subs) else passed))  # the room's own tuple where it can be
        return subs

    def _remember(self, publication: Publication) -> Served:
        served = self._served.setdefault(publication.id, [])
        if len(self._served) > REMEMBERED:
            self._served.popitem(last=False)
        return served

    def replay(self, session: Session, run: Sequence[tuple[str, Publication]]) -> None:
        """As `Fanout.replay`."""
        for room, publication in run:
            sub = session.subs.get(room)
            if SPREAD in publication.flags and sub is not None:
                self._remember(publication).append((partition_of(room, self._partitions), (sub,)))
        super().replay(session, run)

    def has_had(self, session: Session, publication: Publication) -> bool:
        """As `Fanout.has_had`: through another partition."""
        served = self._served.get(publication.id, ()) if SPREAD in publication.flags else ()
        return any(sub.session is session for _, some in served for sub in some)


class AccountedSpreadFanout(SpreadFanout, AccountedFanout):
    """`SpreadFanout` that keeps the ledger."""
