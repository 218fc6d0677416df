"""What a client gets that was away for long: how things stand, how much it missed, and the last of it.

All of a long absence would be a flood that nobody reads.  Of more than `limit` missed events in a room the last `tail`
are replayed; of those before them only what must not be lost: critical events, and of every task the latest state,
as the state lane keeps it.  The rest is told as one `shed` and stays in the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from wsapp.core.backlog import Shed
from wsapp.core.events import Lane, Publication

SHED_CATCH_UP: Final = "catch-up"  # more was missed than is replayed at once


@dataclass(frozen=True, slots=True)
class Pace:
    """More than `limit` missed events of a room are not replayed one by one (0: they always are), but the last `tail`
    of them are."""

    limit: int = 1000
    tail: int = 200

    def exceeded(self, missed: int) -> bool:
        """Whether that is too much to be replayed as a whole."""
        return 0 < self.limit < missed


class Thinned(NamedTuple):
    """`kept` is sent before the shed is told, then `tail`; all in the order of the room."""

    kept: tuple[Publication, ...]
    skipped: tuple[Publication, ...]
    tail: tuple[Publication, ...]


def is_critical(publication: Publication) -> bool:
    """Whether it is never skipped: it must be acknowledged, or is of the lane that does not wait."""
    return publication.critical or publication.lane is Lane.CRITICAL


def thin(publications: Sequence[Publication], tail: int) -> Thinned:
    """Choose what of a room is replayed.  A state that a newer one follows, in the tail too, is skipped."""
    cut = max(0, len(publications) - tail)
    known = {_subject(publication) for publication in publications[cut:] if publication.lane is Lane.STATE}
    kept: list[Publication] = []
    skipped: list[Publication] = []
    for publication in reversed(publications[:cut]):
        latest = publication.lane is Lane.STATE and _subject(publication) not in known
        if latest:
            known.add(_subject(publication))
        (kept if latest or is_critical(publication) else skipped).append(publication)
    return Thinned(tuple(reversed(kept)), tuple(reversed(skipped)), tuple(publications[cut:]))


def _subject(publication: Publication) -> tuple[str, str]:
    return publication.event, publication.entity


def shed_of(room: str, skipped: Iterable[Publication]) -> Shed | None:
    """What to tell of the skipped ones, which lie somewhere within `first`..`last`; None when there are none."""
    seqs, worst = [], 0
    for publication in skipped:
        seqs.append(publication.seq(room))
        worst = max(worst, publication.priority)
    return Shed(room, seqs[0], seqs[-1], len(seqs), SHED_CATCH_UP, worst) if seqs else None
