"""One outbox per partition behind one face: while a partition is away, the others' publications go on.

An event goes the way of its home, the partition of its first room.  One that has rooms in a partition that is away
waits, and what follows it in its home waits behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

import gevent

from wsapp.core.events import Draft, Publication
from wsapp.core.partitions import partition_of
from wsapp.core.ports import Backend, Receipt
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime.outlet import Mode, Outlet

_WORSE: Final = (Mode.NORMAL, Mode.CATCHING_UP, Mode.DEGRADED)


class Outlets:
    """As `Outlet`, over several partitions.  `told(mode)` is called when the worst mode of them changes."""

    def __init__(self, publish: Callable[[Sequence[Draft]], list[Receipt]], parts: Sequence[Backend],
                 metrics: Metrics, recover: Callable[[Sequence[Draft]], list[Receipt]] | None = None) -> None:
        self.parts = tuple(Outlet(publish, part, metrics, recover=recover) for part in parts)
        self.told: Callable[[Mode], None] = _nothing
        self.mode = Mode.NORMAL
        for outlet in self.parts:
            outlet.told = self._changed

    def of(self, room: str) -> Outlet:
        """The outbox of a room's partition."""
        return self.parts[partition_of(room, len(self.parts))]

    def flows(self, room: str) -> bool:
        """Whether the room's partition is there and nothing waits for it."""
        return self.of(room).mode is Mode.NORMAL

    @property
    def serve(self) -> Callable[[Publication], None]:
        """As `Outlet.serve`."""
        return self.parts[0].serve

    @serve.setter
    def serve(self, serve: Callable[[Publication], None]) -> None:
        for outlet in self.parts:
            outlet.serve = serve

    @property
    def reason(self) -> str:
        """Why which partitions are away, with what to do about it."""
        return "; ".join(f"partition {number}: {outlet.reason}" for number, outlet in enumerate(self.parts)
                         if outlet.mode is not Mode.NORMAL)

    @property
    def refused(self) -> int:
        """Publications that found an outbox full, or were given up."""
        return sum(outlet.refused for outlet in self.parts)

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """As `Outlet.publish`.  Drafts that follow each other in one partition leave together."""
        receipts: list[Receipt] = []
        for outlet, some in groupby(drafts, self._home):
            receipts += outlet.publish(list(some))
        return receipts

    def _home(self, draft: Draft) -> Outlet:
        return self.of(draft.rooms[0])

    def lost(self, error: BrokerUnavailable) -> None:
        """A partition did not answer somewhere."""
        self.parts[error.partition].lost(error)

    def _changed(self, _mode: Mode) -> None:
        worst = max((outlet.mode for outlet in self.parts), key=_WORSE.index)
        if worst is not self.mode:
            self.mode = worst
            self.told(worst)

    def run(self) -> None:
        """As `Outlet.run`."""
        running = [gevent.spawn(outlet.run) for outlet in self.parts]
        try:
            gevent.joinall(running, raise_error=True)
        finally:
            gevent.killall(running)

    def waiting(self) -> int:
        """As `Outlet.waiting`."""
        return sum(outlet.waiting() for outlet in self.parts)

    def flush(self, deadline: float) -> int:
        """As `Outlet.flush`."""
        return sum(job.value or 0 for job in gevent.joinall(
            [gevent.spawn(outlet.flush, deadline) for outlet in self.parts]))


def _nothing(_mode: Mode) -> None:
    return None
