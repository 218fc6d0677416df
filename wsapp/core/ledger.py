"""The account of each session: what became of every event that was owed to it (G2).

    published = delivered + merged + shed and told + told otherwise + replayable + waiting

A debugging aid: it costs memory and time for each delivery, so it is kept only when asked for (WSAPP_LEDGER).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

MOST_ENTRIES: Final = 10_000  # per session; older closed ones live on in the counts only
MOST_SESSIONS: Final = 1_000


class Fate(StrEnum):
    """What became of one event for one session."""

    WAITING = "waiting"        # in the session's lanes
    DELIVERED = "delivered"    # handed to the transport
    MERGED = "merged"          # a newer state of the same entity stands for it
    SHED = "shed"              # dropped, and the client was told
    TOLD = "told"              # before a resync that the client was told of
    REPLAYABLE = "replayable"  # the connection ended first: a recovery or `history` brings it


class Named(Protocol):
    """What has a session id."""

    id: str


@dataclass(slots=True)
class Entry:
    """One event owed to one session.  `why` says more about its fate: the id it was merged into, a reason.  `copies`:
    how often it was sent again because it is critical."""

    id: str
    room: str
    seq: int
    entity: str
    fate: Fate = Fate.WAITING
    why: str = ""
    copies: int = 0


class _Account:
    __slots__ = ("counts", "entries", "published")

    def __init__(self) -> None:
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self.counts: Counter[Fate] = Counter()
        self.published = 0


class Ledger:
    """The accounts of the sessions of one worker, the last `sessions` of them, each with its last `entries` events."""

    def __init__(self, entries: int = MOST_ENTRIES, sessions: int = MOST_SESSIONS) -> None:
        self._most_entries, self._most_sessions = entries, sessions
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    # -- keeping

    def owed(self, session: str, id: str, room: str, seq: int, entity: str = "") -> None:
        """The event is to reach the session.  Said again (for another room, or on a replay) it changes nothing."""
        account = self._account(session)
        if id in account.entries:
            return
        account.published += 1
        account.counts[Fate.WAITING] += 1
        account.entries[id] = Entry(id, room, seq, entity)
        if len(account.entries) > self._most_entries:
            oldest = next(iter(account.entries))
            if account.entries[oldest].fate is Fate.WAITING:
                account.entries.move_to_end(oldest)  # what is open is kept
            else:
                del account.entries[oldest]

    def delivered(self, session: str, id: str) -> None:
        """It was handed to the transport, whatever was written about it before: a replay makes good."""
        self._close(self._account(session), self._account(session).entries.get(id), Fate.DELIVERED)

    def repeated(self, session: str, id: str) -> None:
        """A copy was handed to the transport; as `delivered`, and `why` says how many copies there were."""
        account = self._account(session)
        entry = account.entries.get(id)
        if entry is not None:
            entry.copies += 1
            self._close(account, entry, Fate.DELIVERED)
            entry.why = f"sent again {entry.copies} times, as a critical event"

    def merged(self, session: str, room: str, entity: str, into: str) -> None:
        """The latest state of an entity leaves and stands for the older ones that were waiting."""
        account = self._account(session)
        latest = account.entries.get(into)
        for entry in self._waiting(account, room):
            if entry.entity == entity and entry.id != into and (latest is None or entry.seq < latest.seq):
                self._close(account, entry, Fate.MERGED, f"into {into}")

    def shed(self, session: str, room: str, first: int, last: int, reason: str) -> None:
        """A range was dropped and the client is told."""
        account = self._account(session)
        for entry in self._waiting(account, room):
            if first <= entry.seq <= last:
                self._close(account, entry, Fate.SHED, reason)

    def told(self, session: str, room: str, reason: str) -> None:
        """The room goes on elsewhere, and the client is told so: what waited is of the past."""
        account = self._account(session)
        for entry in self._waiting(account, room):
            self._close(account, entry, Fate.TOLD, reason)

    def left(self, session: str) -> None:
        """The connection has ended: what waited is behind the session's saved position."""
        account = self._account(session)
        for entry in self._waiting(account):
            self._close(account, entry, Fate.REPLAYABLE, "the connection ended first")

    def left_by(self, session: Named) -> None:
        """As `left`, for a session as the runtime has it."""
        self.left(session.id)

    # -- asking

    def balance(self, session: str) -> dict[str, int]:
        """`published` and how many of them met each fate; the fates add up to it."""
        account = self._accounts.get(session, _Account())
        return {"published": account.published, **{fate.value: account.counts[fate] for fate in Fate}}

    def explain(self, session: str, id: str) -> dict[str, object]:
        """`{id, fate, room, seq, why}` of one event; fate `unknown` when it was never owed or is forgotten."""
        account = self._accounts.get(session)
        entry = account.entries.get(id) if account is not None else None
        if entry is None:
            why = "the session is not known here" if account is None else "never owed to this session, or long closed"
            return {"id": id, "fate": "unknown", "why": why}
        return {"id": id, "fate": entry.fate.value, "room": entry.room, "seq": entry.seq, "why": entry.why}

    # -- inside

    def _account(self, session: str) -> _Account:
        account = self._accounts.get(session)
        if account is None:
            account = self._accounts[session] = _Account()
            if len(self._accounts) > self._most_sessions:
                self._accounts.popitem(last=False)
        return account

    def _waiting(self, account: _Account, room: str | None = None) -> Iterable[Entry]:
        return [entry for entry in account.entries.values()
                if entry.fate is Fate.WAITING and room in (None, entry.room)]

    def _close(self, account: _Account, entry: Entry | None, fate: Fate, why: str = "") -> None:
        if entry is None or entry.fate is fate:
            return
        account.counts[entry.fate] -= 1
        account.counts[fate] += 1
        entry.fate, entry.why = fate, why
