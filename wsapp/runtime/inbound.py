"""How much a client may say: packets per second of a session, and of all sessions of a user together.

Large packets count as several, and so do those that make the server read, write or answer much: what a packet costs
grows with the bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Final

from wsapp.core.throttle import Bucket

BURST: Final = 10  # seconds' worth that may come at once: a page that joins all its rooms
PIECE: Final = 16_384  # bytes of a packet that count as another one
FAR: Final = 4  # times the limit that may be refused before the client is closed
PRUNE_AT: Final = 1000  # users without sessions that are remembered before full buckets are let go


class Verdict(Enum):
    """What becomes of a packet: handled, refused, or the client's last."""

    TAKE = 0
    REFUSE = 1
    CLOSE = 2


class _Meter:
    """One connection.  `refusals` is spent by what is refused: who goes on far over the limit runs out of it."""

    __slots__ = ("packets", "refusals", "user")

    def __init__(self, rate: float) -> None:
        self.packets = Bucket(rate, max(1.0, rate * BURST))
        self.refusals = Bucket(rate * FAR, max(1.0, rate * BURST * FAR))
        self.user: str | None = None


class Inbound:
    """The meters of one worker; rates in packets per second, 0 for no limit."""

    def __init__(self, per_session: float, per_user: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_session, self._per_user, self._clock = per_session, per_user, clock
        self._meters: dict[str, _Meter] = {}
        self._users: dict[str, Bucket] = {}

    def admit(self, sid: str, user_id: str | None, size: int = 0) -> Verdict:
        """Judge one packet of a connection, of `size` bytes."""
        now, count = self._clock(), 1 + size // PIECE
        meter = self._meters.get(sid)
        if meter is None:
            meter = self._meters[sid] = _Meter(self._per_session)
        if _admits(meter.packets, count, now) and (user_id is None or _admits(self._user(user_id, now), count, now)):
            return Verdict.TAKE
        return Verdict.REFUSE if meter.refusals.admit(now) else Verdict.CLOSE

    def charge(self, sid: str, user_id: str | None, size: int) -> None:
        """What a packet made the server read, write or answer was `size` bytes: as if as many had come.  The packets
        after it wait for that."""
        now, count = self._clock(), size // PIECE
        meter = self._meters.get(sid)
        if count and meter is not None:
            meter.packets.spend(count, now)
            if user_id is not None:
                self._user(user_id, now).spend(count, now)

    def admit_request(self, user_id: str, size: int = 0) -> bool:
        """Judge a request of a user, or of an address without one, that came by no connection of its own and costs as
        much as `size` bytes."""
        now = self._clock()
        return _admits(self._user(user_id, now), 1 + size // PIECE, now)

    def _user(self, user_id: str, now: float) -> Bucket:
        bucket = self._users.get(user_id)
        if bucket is None:
            if len(self._users) >= PRUNE_AT:
                self._users = {name: kept for name, kept in self._users.items() if not kept.is_full(now)}
            bucket = self._users[user_id] = Bucket(self._per_user, max(1.0, self._per_user * BURST))
        return bucket

    def forget(self, sid: str) -> None:
        """A connection has gone.  Its user's bucket stays until it is full: reconnecting gains nothing."""
        self._meters.pop(sid, None)


def _admits(bucket: Bucket, count: int, now: float) -> bool:
    """A packet that costs more than the burst allows takes all of it: else it could never be sent."""
    return bucket.admit(now) if count == 1 else bucket.admit_all(min(count, int(bucket.burst)), now)
