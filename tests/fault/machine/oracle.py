"""Who saw what, and why not: the account of every watcher over everything that was published.

Pure: it is fed with receipts, histories and what clients noted, and judges when all is over.

    published = delivered + merged + shed and told + told by resync or a refused recovery (+ unexplained: 0)
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

SOON: Final = 10.0  # seconds


class Entry(NamedTuple):
    """A publication as it is recorded: `places` has (epoch, seq) by room, `token` is unique in its payload."""

    id: str
    token: int
    places: dict[str, tuple[str, int]]


class Note(NamedTuple):
    """Something rare a client was told, after `at` events: kind `s` session, `j` subscribed, `x` shed, `r` resync, `m`
    mode (as `room`), `d` disconnect.  For `s`, `recovered` and `rooms` count; for `x`, `first`, `last` and `count`."""

    at: int
    kind: str
    room: str = ""
    epoch: str = ""
    seq: int = 0
    recovered: bool = False
    rooms: Mapping[str, tuple[str, int]] = MappingProxyType({})
    first: int = 0
    last: int = 0
    count: int = 0
    when: float = 0.0


class View:
    """What one client saw, in order.  `throttled`: its events may wait, merge and be shed.  `twins`: clients that had
    its session for a while; what one of them saw, the session was sent."""

    def __init__(self, name: str, rooms: Iterable[str], throttled: bool = False) -> None:
        self.name, self.rooms, self.throttled = name, tuple(rooms), throttled
        self.ids: list[str] = []
        self.seqs: list[int] = []
        self.tokens: list[int] = []
        self.notes: list[Note] = []
        self.twins: list[View] = []

    @property
    def family(self) -> list[View]:
        """All that spoke for the session."""
        return [self, *self.twins]

    def event(self, seq: int, id: str, token: int) -> None:
        """One delivery; `seq` 0 when it came before it was recorded."""
        self.ids.append(id)
        self.seqs.append(seq)
        self.tokens.append(token)

    def note(self, kind: str, room: str = "", epoch: str = "", seq: int = 0, **more: object) -> None:
        more.setdefault("when", time.monotonic())
        self.notes.append(Note(len(self.ids), kind, room, epoch, seq, **more))  # type: ignore[arg-type]


class Truth:
    """Everything that is known to have been published, and in which order in each room."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._again: dict[tuple[str, str], list[tuple[str, int]]] = {}  # (id, room): places in other histories
        self.by_token: dict[int, set[str]] = {}
        self.epochs: dict[str, list[str]] = {}
        self.queued: dict[str, tuple[int, int]] = {}  # id -> (token, pid): promised, not yet recorded
        self.queued_at: dict[str, float] = {}  # when, in seconds
        self.losses: list[float] = []  # when Redis began to lose data
        self.critical: set[int] = set()  # tokens
        self.kept: set[str] = set()  # ids that were read back from a history
        self._order: dict[str, dict[tuple[str, int], str]] = {}
        self.contradictions: list[str] = []

    def accepted(self, id: str, token: int, places: dict[str, tuple[str, int]]) -> None:
        """Redis said that it has it, or it was found in a history."""
        if id in self.entries:
            if self.entries[id].token != token:
                self.contradictions.append(f"{id} is both token {self.entries[id].token} and {token}")
                return
            for room, place in places.items():  # each partition's record has the rooms that are there
                known = self.entries[id].places.setdefault(room, place)
                if known[0] == place[0] and known != place:
                    numbers = f"#{known[1]} and #{place[1]}"
                    self.contradictions.append(f"{id} is recorded twice in {room} {place[0]}: {numbers}")
                elif known != place:  # the first one was lost with its history
                    self._again.setdefault((id, room), []).append(place)
        else:
            self.entries[id] = Entry(id, token, dict(places))
        self.by_token.setdefault(token, set()).add(id)
        for room, (epoch, seq) in places.items():
            known = self.epochs.setdefault(room, [])
            if epoch not in known:
                known.append(epoch)
            other = self._order.setdefault(room, {}).setdefault((epoch, seq), id)
            if other != id:
                self.contradictions.append(f"{room} {epoch}#{seq} is both {other} and {id}")

    def seen_at(self, id: str, room: str, seq: int) -> tuple[str, int] | None:
        """The place at which a client saw an event under this number; None when there is none.  An event whose answer
        was lost with its history is recorded again under its id: of the first place nothing is known but that it is
        nobody else's."""
        known = self.entries[id].places[room]
        for place in (known, *self._again.get((id, room), ())):
            if place[1] == seq:
                return place
        epochs, taken = self.epochs[room], self._order[room]
        return next(((epoch, seq) for epoch in epochs[:epochs.index(known[0])] if (epoch, seq) not in taken), None)

    def promised(self, id: str, token: int, pid: int, at: float = 0.0) -> None:
        """A worker has queued it."""
        self.queued[id] = token, pid
        self.queued_at[id] = at

    def perhaps_lost(self, id: str) -> bool:
        """Whether Redis lost data soon after it was queued: what was recorded just before, nobody has read."""
        return any(0 <= loss - self.queued_at[id] <= SOON for loss in self.losses)

    def ranked(self, room: str, epoch: str, seq: int) -> tuple[int, int]:
        """A place that can be compared within its room; the beginning of everything for no epoch."""
        known = self.epochs.get(room, [])
        return (known.index(epoch), seq) if epoch in known else (len(known) if epoch else -1, seq)

    def in_room(self, room: str) -> list[tuple[tuple[int, int], Entry]]:
        """The room's publications in order."""
        return sorted((self.ranked(room, epoch, seq), self.entries[id])
                      for (epoch, seq), id in self._order.get(room, {}).items())


@dataclass
class Account:
    """The outcome for one client or, added up, for all."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __iadd__(self, other: Account) -> Account:
        self.counts += other.counts
        self.problems += other.problems
        return self


def _first_join(view: View, room: str) -> Note | None:
    return next((note for note in view.notes if note.kind == "j" and note.room == room), None)


class _Jumps:
    """Where the client was told that it goes on elsewhere, for one room."""

    def __init__(self, truth: Truth, view: View, room: str) -> None:
        self._spans: list[tuple[tuple[int, int], tuple[int, int]]] = []
        refused = False
        come = 0
        low = (-1, 0)
        for note in view.notes:
            for index in range(come, note.at):
                low = max(low, _place(truth, view, index, room))
            come = note.at
            if note.kind == "s":
                refused = not note.recovered
                if refused and room in note.rooms:
                    self._jump(truth, view, room, low, note.rooms[room])
            elif note.room == room and (note.kind == "r" or (note.kind == "j" and refused)):
                self._jump(truth, view, room, low, (note.epoch, note.seq))

    def _jump(self, truth: Truth, view: View, room: str, low: tuple[int, int], to: tuple[str, int]) -> None:
        end = truth.ranked(room, *to)
        if not to[0]:  # nothing is there any more: all that was known is behind it
            end = (len(truth.epochs.get(room, ())), 0)
        self._spans.append(((-1, 0) if view.throttled else low, end))

    def cover(self, place: tuple[int, int]) -> bool:
        return any(low < place <= high for low, high in self._spans)


class _Sheds:
    """What a client was told of a room as shed.  A range names no epoch: it is that of the last one the client was told
    of or saw; what waited in its lanes may be of the one before."""

    def __init__(self, truth: Truth, view: View, room: str) -> None:
        self._ranges: list[tuple[set[int], int, int]] = []
        newest, come = -1, 0
        for note in view.notes:
            for index in range(come, note.at):
                newest = max(newest, _place(truth, view, index, room)[0])
            come = note.at
            told = note.rooms.get(room) if note.kind == "s" else (note.epoch, note.seq)
            if told and told[0] and (note.kind == "s" or (note.room == room and note.kind in "jr")):
                newest = max(newest, truth.ranked(room, *told)[0])
            if note.kind == "x" and note.room == room:
                epochs = {newest, newest - 1} if view.throttled else {newest}
                self._ranges.append((epochs, note.first, note.last))

    def cover(self, place: tuple[int, int]) -> bool:
        return any(place[0] in epochs and first <= place[1] <= last for epochs, first, last in self._ranges)


def _place(truth: Truth, view: View, index: int, room: str) -> tuple[int, int]:
    """Where a delivery stands in the room; before everything when it does not."""
    entry = truth.entries.get(view.ids[index])
    if entry is None or room not in entry.places or not view.seqs[index]:
        return (-1, 0)
    place = truth.seen_at(entry.id, room, view.seqs[index])
    return truth.ranked(room, *place) if place is not None else (-1, 0)


class Oracle:
    """Judges views against the truth.  `ended`: pids of workers that were killed or told to end, whose queued
    publications may have gone with them."""

    def __init__(self, truth: Truth, ended: set[int] | None = None) -> None:
        self.truth, self.ended = truth, ended or set()
        self._rooms: dict[str, list[tuple[tuple[int, int], Entry]]] = {}

    def judge(self, view: View) -> Account:
        """The account of one client."""
        account = Account()
        self._doubles(view, account)
        self._order(view, account)
        self._missing(view, account)
        account.counts["deliveries"] += len(view.ids)
        return account

    def publishers(self) -> Account:
        """The account of the publishers: nothing that was promised is lost or recorded twice."""
        account = Account(Counter(published=len(self.truth.entries)))
        account.problems += self.truth.contradictions
        for token, ids in self.truth.by_token.items():
            if len(ids) > 1:
                account.problems.append(f"token {token} is recorded twice: {sorted(ids)}")
        for id, (token, pid) in self.truth.queued.items():
            if id in self.truth.entries:
                account.counts["queued and recorded"] += 1
            elif pid in self.ended:
                account.counts["queued, gone with its worker"] += 1
            elif self.truth.perhaps_lost(id):
                account.counts["queued, and Redis's data were lost soon after"] += 1
            else:
                account.problems.append(f"{id} (token {token}) was queued by worker {pid} and never recorded")
        return account

    def _doubles(self, view: View, account: Account) -> None:
        first: dict[int, tuple[str, int]] = {}
        told: set[tuple[int, str]] = set()
        for index, (id, token) in enumerate(zip(view.ids, view.tokens, strict=True)):
            other, at = first.setdefault(token, (id, index))
            if other == id or (token, id) in told:
                continue
            told.add((token, id))
            rooms = tuple(room for one in (id, other) if one in self.truth.entries
                          for room in self.truth.entries[one].places)
            account.problems.append(f"{view.name} saw token {token} as {other} @{at} (#{view.seqs[at]}) and as {id} "
                                    f"@{index} (#{view.seqs[index]}), recorded as {self.truth.by_token.get(token)}; it "
                                    f"was told {_told(view, rooms, index)}")
        account.counts["repeats"] += len(view.ids) - len(set(view.ids))

    def _order(self, view: View, account: Account) -> None:
        last: dict[str, tuple[tuple[int, int], str]] = {}
        highest: dict[str, tuple[int, int]] = {}
        seen: set[int] = set()
        jumps: dict[str, _Jumps] = {}
        for index, (id, seq, token) in enumerate(zip(view.ids, view.seqs, view.tokens, strict=True)):
            entry, repeat = self.truth.entries.get(id), token in seen
            seen.add(token)
            if repeat or entry is None or not seq:  # 0: served before it had a number; only numbers are ordered
                continue
            if token in self.truth.critical:  # redelivered until acknowledged, whatever came meanwhile
                continue
            found = [(room, at) for room in entry.places if room in view.rooms
                     and (at := self.truth.seen_at(id, room, seq)) is not None]
            if not found:
                account.problems.append(f"{view.name} saw {entry} as #{seq}")
                continue
            room, at = next((one for one in found if one[1] == entry.places[one[0]]), found[0])
            account.counts["seen before its history was lost, and recorded again"] += at != entry.places[room]
            if room != next(name for name in entry.places if name in view.rooms):
                account.counts["replayed through its second room"] += 1
                continue  # its order is that of the first one
            account.counts["overtaken in its second room"] += self._overtaken(view, entry, room, highest)
            place = self.truth.ranked(room, *at)
            before, other = last.get(room, ((-1, 0), ""))
            if place < before and not view.throttled:
                if room not in jumps:
                    jumps[room] = _Jumps(self.truth, view, room)
                if jumps[room].cover(place):  # told as missed, and replayed after all
                    account.counts["late, after it was told as missed"] += 1
                    continue
                account.problems.append(f"{view.name}: in {room} {id} {place} came at {index} after {other} {before}; "
                                        f"it was told {_told(view, tuple(entry.places), index)}; {entry}")
            last[room] = max((before, other), (place, id))

    def _overtaken(self, view: View, entry: Entry, through: str, highest: dict[str, tuple[int, int]]) -> int:
        """Known weakness: its order is that of the room through which it comes; later events of another room of its may
        have come before.  How many rooms that is true of."""
        late = 0
        for room, (epoch, seq) in entry.places.items():
            if room in view.rooms:
                place = self.truth.ranked(room, epoch, seq)
                late += room != through and place < highest.get(room, place) and not view.throttled
                highest[room] = max(place, highest.get(room, place))
        return late

    def _missing(self, view: View, account: Account) -> None:
        seen = {id for one in view.family for id in one.ids}
        tokens = {token for one in view.family for token in one.tokens}
        why: dict[str, str] = {}
        for room in view.rooms:
            join = _first_join(view, room)
            if join is None:
                account.problems.append(f"{view.name} was never in {room}")
                continue
            start = self.truth.ranked(room, join.epoch, join.seq)
            jumps = [_Jumps(self.truth, one, room) for one in view.family]
            sheds = [_Sheds(self.truth, one, room) for one in view.family]
            delivered_later = max(self._latest(one, room) for one in view.family)
            shed = 0
            for place, entry in self._in_order(room):
                if place <= start:
                    continue
                outcome = ("delivered" if entry.id in seen or entry.token in tokens else
                           self._explain(view, room, place, jumps, sheds, delivered_later))
                shed += outcome == "shed and told"
                if entry.token in self.truth.critical and outcome in ("shed and told", "merged"):
                    account.problems.append(f"{view.name}: {entry} is critical and was {outcome}")
                if why.get(entry.id, "unexplained") == "unexplained":
                    why[entry.id] = outcome
            self._count_shed(view, room, shed, account)
        account.counts.update(why.values())
        account.counts["critical, delivered"] += sum(outcome == "delivered" for id, outcome in why.items()
                                                     if self.truth.entries[id].token in self.truth.critical)
        account.problems += [self._tell(view, id) for id, outcome in why.items() if outcome == "unexplained"]

    def _count_shed(self, view: View, room: str, missing: int, account: Account) -> None:
        """No more is missing in the ranges that were told than was told."""
        told = sum(note.count for one in view.family for note in one.notes if note.kind == "x" and note.room == room)
        if missing > told:
            account.problems.append(f"{view.name}: {missing} missing in the shed ranges of {room}, {told} told")

    def _in_order(self, room: str) -> list[tuple[tuple[int, int], Entry]]:
        if room not in self._rooms:
            self._rooms[room] = self.truth.in_room(room)
        return self._rooms[room]

    def _latest(self, view: View, room: str) -> tuple[int, int]:
        """The newest place of the room that the client saw."""
        return max((_place(self.truth, view, index, room) for index in range(len(view.ids))), default=(-1, 0))

    def _explain(self, view: View, room: str, place: tuple[int, int], jumps: list[_Jumps], sheds: list[_Sheds],
                 latest: tuple[int, int]) -> str:
        if any(one.cover(place) for one in sheds):
            return "shed and told"
        if any(jump.cover(place) for jump in jumps):
            return "told"
        if view.throttled and room.startswith("task:") and latest > place and latest[0] == place[0]:
            return "merged"
        return "unexplained"

    def _tell(self, view: View, id: str) -> str:
        entry = self.truth.entries[id]
        return (f"{view.name} never saw {entry}; read back {id in self.truth.kept}; it was told "
                f"{_told(view, tuple(entry.places))}")


def _told(view: View, rooms: tuple[str, ...], until: int = sys.maxsize) -> str:
    """The notes that matter for some rooms, the last ones up to a delivery."""
    told: deque[str] = deque(maxlen=14)
    for note in view.notes:
        if note.at <= until and (note.kind in ("s", "d") or note.room in rooms):
            places = {room: place for room, place in note.rooms.items() if room in rooms}
            told.append(f"@{note.at} {note.kind} {note.room} {note.epoch}#{note.seq} {note.recovered} {places}")
    return "; ".join(told)
