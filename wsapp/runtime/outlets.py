"""One outbox per partition behind one face: while a partition is away, the others' publications go on.

An event goes the way of its home, the partition of its first room.  One that has rooms in a partition that is away
waits, and what follows it in its home waits behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import gevent

from wsapp.core.events import Draft, Publication
from wsapp.core.partitions import partition_of
from wsapp.core.ports import Backend, Receipt
from wsapp.metrics import Metrics
from wsapp.runtime.link import Links
from wsapp.runtime.outlet import Outlet


class Outlets:
    """As `Outlet`, over the partitions of a backend, of which there is at least one."""

    def __init__(self, publish: Callable[[Sequence[Draft]], list[Receipt]], parts: Sequence[Backend], links: Links,
                 metrics: Metrics, serve: Callable[[Publication], None]) -> None:
        self.parts = tuple(Outlet(publish, part, link, metrics, serve)
                           for part, link in zip(parts, links.parts, strict=True))

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
        return self.parts[partition_of(draft.rooms[0], len(self.parts))]

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
