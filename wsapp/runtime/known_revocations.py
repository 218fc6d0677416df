"""What is revoked, as far as a worker knows: what Redis says, and what it was told before, for when Redis is away."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from wsapp.auth import TokenRefused
from wsapp.core.ports import Revocations
from wsapp.errors import BrokerUnavailable, ErrorCode

log = logging.getLogger(__name__)

REMEMBERED: Final = 10_000  # revocations that a worker knows by itself
BELIEVED: Final = 60.0  # seconds for which a revocation that Redis told of is known without it
RECHECK: Final = 500  # revocations asked for in one round trip


class KnownRevocations:
    """One worker's.  Entries are what `wsapp.auth.revocation` makes.  `leeway` in seconds; `clock` gives
    seconds since the epoch."""

    def __init__(self, store: Revocations, leeway: float, clock: Callable[[], float]) -> None:
        self._store, self._leeway, self._clock = store, leeway, clock
        self._recent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # at, until
        self.unchecked = False  # whether Redis may know of some that this worker does not

    def remember(self, entry: str, at: float, until: float) -> None:
        """From now on this worker knows of one.  Of very many the oldest are forgotten."""
        before = self._recent.pop(entry, (at, until))
        self._recent[entry] = (max(at, before[0]), max(until, before[1]))
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)

    def remembered(self, entries: Iterable[str] | None = None) -> dict[str, float]:
        """Which of the entries, or of all, this worker knows to be revoked still, and as of when."""
        now, names = self._clock(), self._recent if entries is None else entries
        found = {entry: self._recent[entry] for entry in names if entry in self._recent}
        return {entry: at for entry, (at, until) in found.items() if until > now}

    def covers(self, kind: str, at: float, issued: float | None) -> bool:
        """A user's tokens that were issued after the revocation are new ones.  The issuer's clock may be ahead by the
        leeway: within it a token may as well be an old one."""
        return kind != "user" or issued is None or issued <= at + self._leeway

    def refuse(self, entries: Collection[str], issued: float | None) -> None:
        """Raises TokenRefused when one of them is revoked.  While Redis is away this worker's memory must do; it is
        `unchecked` then."""
        if not entries:
            return
        known = self.remembered(entries)
        try:
            known |= self._store.revoked(list(entries))
        except BrokerUnavailable as error:
            self.unchecked = True
            log.warning("revocations are checked later: %s", error)
        if any(entry in known and self.covers(entry.partition(":")[0], known[entry], issued) for entry in entries):
            raise TokenRefused(ErrorCode.TOKEN_REVOKED, "the token was revoked")

    def look_again(self, entries: Iterable[str]) -> Iterator[tuple[str, float, float]]:
        """Those of the entries that Redis knows to be revoked: entry, as of when, known until.  When Redis is away
        they stay `unchecked`."""
        self.unchecked = False
        asked = list(dict.fromkeys(entries))
        try:
            for start in range(0, len(asked), RECHECK):
                for entry, at in self._store.revoked(asked[start:start + RECHECK]).items():
                    yield entry, at, self._clock() + BELIEVED
        except BrokerUnavailable:
            self.unchecked = True
