"""The HTTP connections of one worker: how many there may be, and which is ended for a newcomer.

A polling client that has joined holds two at most, a GET and a POST, so twice MAX_CONNECTIONS and some are enough for
all of them; what is not at work for a client gives way: the oldest of the address that has most.  When all are at work
a newcomer is still read from, since it may be a health check, and everything else is answered 503.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from typing import Final

from wsapp.core.limited_log import LimitedLog
from wsapp.core.places import Places
from wsapp.transport.gate import normal_address

log = logging.getLogger(__name__)

PER_CONNECTION: Final = 2  # HTTP connections of a polling client
OTHERS: Final = 128  # of everybody else, when all clients poll
SPARE: Final = 32  # on top, of which only health checks are answered
OWN_DESCRIPTORS: Final = 256  # of a worker: files, Redis, the hub
LEAST: Final = 32
PROBES: Final = ("/healthz", "/readyz")

Count = Callable[[str], None]


class Slot:
    """The place of one connection.  `cut()` ends it, and says False when it is at work after all."""

    __slots__ = ("_slots", "cut", "late")

    def __init__(self, slots: Slots, cut: Callable[[], bool], late: bool) -> None:
        self._slots, self.cut = slots, cut
        self.late = late  # it came when all were at work

    def work(self) -> None:
        """A request has come: the place is kept until it is answered."""
        self._slots.places.work(self)

    def rest(self) -> None:
        """The client is to say something."""
        self._slots.places.rest(self, time.monotonic())

    def is_of(self, address: str) -> None:
        """A proxy has told whose the request is."""
        self._slots.places.move(self, address)

    def leave(self) -> None:
        """The connection is over, or is a WebSocket now.  Idempotent."""
        self._slots.places.leave(self)


class Slots:
    """All of one worker.  `count(name)` counts what was ended or refused."""

    def __init__(self, limit: int, count: Count) -> None:
        self.limit, self._count = limit, count
        self.places: Places[Slot] = Places()
        self._lines = LimitedLog(log)

    def enter(self, peer: object, cut: Callable[[], bool]) -> Slot | None:
        """A place for a connection from `peer`, as accept() tells it; None when there is none at all."""
        address = normal_address(str(peer[0])) if isinstance(peer, tuple) and peer else ""
        if len(self.places) >= self.limit and (
                self.places.at_work() < self.limit or len(self.places) >= self.limit + SPARE):
            self._make_room()
        if len(self.places) >= self.limit + SPARE:
            self.refused(address)
            return None
        slot = Slot(self, cut, len(self.places) >= self.limit)
        self.places.enter(slot, address, time.monotonic())
        return slot

    def refused(self, address: str) -> None:
        """A connection found no place."""
        self._count("httpRefused")
        self._lines.warning(address, "refused a connection of %r: all %d are at work", address, self.limit)

    def _make_room(self) -> None:
        while (found := self.places.oldest()) is not None:
            slot = found[0]
            if slot.cut():
                address = self.places.address_of(slot)
                self._count("httpClosed")
                self._lines.warning(address, "ended the oldest silent connection of %r, which has %d: all %d are taken",
                                    address, self.places.idle_of(address), self.limit)
                self.places.leave(slot)
                return
            self.places.work(slot)


def slots_for(connections: int, descriptors_each: int, count: Count) -> Slots:
    """The slots of a worker with MAX_CONNECTIONS `connections`, each of which takes so many descriptors.  The limit of
    descriptors is raised as far as the worker may; where that is not enough, there are fewer slots."""
    limit = PER_CONNECTION * connections + OTHERS
    needed = OWN_DESCRIPTORS + descriptors_each * (limit + SPARE + connections)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            limit = max(LEAST, (soft - OWN_DESCRIPTORS) // descriptors_each - SPARE - connections)
            log.warning("a worker may have %d descriptors only: %d are needed for MAX_CONNECTIONS=%d (LimitNOFILE= of "
                        "systemd, ulimit -n, ulimits: of a container); it serves %d HTTP connections at once",
                        soft, needed, connections, limit)
    return Slots(limit, count)
