"""What one receiver (one session) has waiting: bounded, told when it sheds, ordered within an entity.

Events wait in groups, one per (room, lane, entity).  A group is what leaves as one batch; nothing is ever merged
across groups.  Which group leaves next depends on its level: the priority of its most pressing event plus one for
every `age_step` seconds of waiting, capped at `MAX_PRIORITY`.  Ageing counts the ticks of a common grid, so the
order of two waiting events below the cap never changes with time and ageing costs nothing per event: a level is the
fixed number `priority - tick(since)`, and whatever has reached the cap moves once into the topmost level.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final, NamedTuple

from wsapp.core.events import MAX_PRIORITY, TASK_UPDATE, THOUGHT, Lane

SHED_ITEMS: Final = "items"        # more than max_items were waiting
SHED_BYTES: Final = "bytes"        # more than max_bytes were waiting
SHED_SNAPSHOTS: Final = "snapshots"  # the receiver is so far behind that only the latest states are kept
SHED_OVERSIZE: Final = "oversize"  # the event alone is larger than max_bytes

_TOP: Final = 1 << 62  # the level of all that has aged to the cap
_MAX_RUNS: Final = 32  # runs of merged-away numbers kept exactly per state update
_SLACK: Final = 32     # dead entries a room's heap may hold beyond as many as live ones


def _entity(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def classify(event: str, data: object) -> tuple[Lane, str]:
    """The lane of an event and the entity it is about, from its name and data.

    `task-update` with a taskId: the state of that task.  `agent-thought`: a delta of a thought when it has
    `delta: true` and a thoughtId, else the log of its agentId.  Everything else: the log of its own name.
    """
    if isinstance(data, Mapping):
        if event == TASK_UPDATE and (task := _entity(data, "taskId")):
            return Lane.STATE, task
        if event == THOUGHT:
            if data.get("delta") is True and (thought := _entity(data, "thoughtId")):
                return Lane.APPEND, thought
            if agent := _entity(data, "agentId"):
                return Lane.LOG, agent
    return Lane.LOG, event


class Waiting:
    """One event that waits.  `Lanes.put` owns it from then on: a later state update is merged into it in place.

    `item` is whatever the receiver's runtime delivers (a Publication or a dict), `size` its bytes, `since` when it
    began to wait in seconds.  `seq` 0 marks an event that is in no history.  `merged` is how many older updates it
    stands for and `low` the smallest seq among them and itself.
    """

    __slots__ = ("entity", "event", "id", "item", "lane", "live", "low", "merged", "priority", "room", "runs", "seq",
                 "since", "size")

    def __init__(self, event: str, priority: int, lane: Lane, entity: str, room: str, seq: int, id: str,
                 item: object, size: int, since: float) -> None:
        self.event, self.priority, self.lane, self.entity, self.room = event, priority, lane, entity, room
        self.seq, self.id, self.item, self.size, self.since = seq, id, item, size, since
        self.low, self.merged, self.live = seq, 0, True
        self.runs: list[tuple[int, int, int]] | None = None  # (first, last, count) of the numbers merged away

    def __repr__(self) -> str:
        return f"<Waiting {self.event} {self.room}#{self.seq} p{self.priority} +{self.merged}>"

    def absorb(self, newer: Waiting) -> None:
        """Become the newer update; wait since the first, as urgently as the more urgent of both."""
        self.runs = _extended(self.runs or [], (self.seq, self.seq, 1))
        for run in newer.runs or ():
            self.runs = _extended(self.runs, run)
        self.merged += 1 + newer.merged
        self.seq, self.id, self.item, self.size = newer.seq, newer.id, newer.item, newer.size
        self.priority = max(self.priority, newer.priority)

    def sheds(self, reason: str) -> list[Shed]:
        """What to tell when this is dropped: everything it stands for, in runs."""
        runs = _extended(list(self.runs or ()), (self.seq, self.seq, 1))
        return [Shed(self.room, first, last, count, reason, self.priority) for first, last, count in runs]


def _follows(last: int, first: int) -> bool:
    return first == last + 1 if last else not first


def _extended(runs: list[tuple[int, int, int]], run: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Add a run in place.  Past `_MAX_RUNS` the two oldest become one whose count is less than its span."""
    if runs and _follows(runs[-1][1], run[0]):
        runs[-1] = (runs[-1][0], run[1], runs[-1][2] + run[2])
        return runs
    runs.append(run)
    if len(runs) > _MAX_RUNS:
        old, new = runs[0], runs[1]
        runs[:2] = [(min(old[0], new[0]), max(old[1], new[1]), old[2] + new[2])]
    return runs


class Shed(NamedTuple):
    """`count` events of `room` numbered within `first`..`last` were dropped; they may still be in its history.

    They are all of first..last, unless a state update that stood for very many others was dropped: then `count` is
    still exact and smaller than the span.  Numbers are 0 for events in no history.  `worst_priority` is the highest
    priority among them.
    """

    room: str
    first: int
    last: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody calls on a Shed
    reason: str
    worst_priority: int

    def told(self) -> dict[str, object]:
        """The payload of the `shed` event: `{room, from, to, count, reason, worstPriority}`."""
        return {"room": self.room, "from": self.first, "to": self.last, "count": self.count, "reason": self.reason,
                "worstPriority": self.worst_priority}


def coalesce(sheds: list[Shed]) -> list[Shed]:
    """Join neighbours that are contiguous in one room and have one reason."""
    joined: list[Shed] = []
    for shed in sheds:
        last = joined[-1] if joined else None
        if last and last.room == shed.room and last.reason == shed.reason and _follows(last.last, shed.first):
            joined[-1] = Shed(shed.room, last.first, shed.last, last.count + shed.count, shed.reason,
                              max(last.worst_priority, shed.worst_priority))
        else:
            joined.append(shed)
    return joined


class Batch:
    """Events of one name about one entity in one room, in order; never empty.

    STATE: `waits` holds the latest only and `merged` says how many older ones it stands for.  APPEND: the deltas,
    whose text the runtime joins.  LOG and CRITICAL: every one.
    """

    __slots__ = ("entity", "event", "lane", "merged", "room", "waits")

    def __init__(self, waits: list[Waiting]) -> None:
        first = waits[0]
        self.event, self.room, self.entity, self.lane = first.event, first.room, first.entity, first.lane
        self.waits, self.merged = waits, first.merged if first.lane is Lane.STATE else 0

    def __repr__(self) -> str:
        return f"<Batch {self.event} {self.room} {self.entity} {len(self.waits)}+{self.merged}>"


class _Group:
    __slots__ = ("key", "level", "room", "waits")

    def __init__(self, key: tuple[str, str, Lane]) -> None:
        self.key, self.room = key, key[0]
        self.level = -_TOP
        self.waits: dict[Waiting, None] = {}  # a dict as an ordered set: any member leaves in O(1)


class _Lows:
    """The smallest number waiting in one room: a heap whose dead entries are dropped lazily."""

    __slots__ = ("alive", "heap")

    def __init__(self) -> None:
        self.alive = 0
        self.heap: list[tuple[int, int, Waiting]] = []

    def least(self) -> int | None:
        heap = self.heap
        while heap and not (heap[0][2].live and heap[0][2].low == heap[0][0]):
            heappop(heap)
        return heap[0][0] if heap else None

    def prune(self) -> None:
        """Keep the dead ones fewer than the living, however long one old event holds the heap's top."""
        if len(self.heap) > 2 * self.alive + _SLACK:
            self.heap = [entry for entry in self.heap if entry[2].live and entry[2].low == entry[0]]
            heapify(self.heap)


class Lanes:
    """What one receiver has waiting, at most `max_items` events and `max_bytes` bytes.

    Every event put is later taken, merged into one that is taken, told as shed, or returned by `clear`.  Events of
    one entity in one room leave in the order they were put, which must be that of their seq.  `depth` is how many
    wait (merged ones not counted), `bytes` their size.  A put or a take of one event costs O(log n) at most,
    amortised.  Raises ValueError for limits that are not positive.
    """

    __slots__ = ("_age_step", "_by_priority", "_groups", "_levels", "_lows", "_max_bytes", "_max_items", "_serial",
                 "bytes", "depth")

    def __init__(self, max_items: int = 1000, max_bytes: int = 1_000_000, age_step: float = 1.0) -> None:
        if max_items < 1 or max_bytes < 1 or not age_step > 0:
            raise ValueError("max_items, max_bytes and age_step must be positive")
        self._max_items, self._max_bytes, self._age_step = max_items, max_bytes, age_step
        self._start()

    def _start(self) -> None:
        self.depth = self.bytes = self._serial = 0
        self._groups: dict[tuple[str, str, Lane], _Group] = {}
        self._levels: dict[int, dict[str, dict[_Group, None]]] = {}
        self._by_priority: dict[int, OrderedDict[Waiting, None]] = {}
        self._lows: dict[str, _Lows] = {}

    def put(self, waiting: Waiting) -> list[Shed]:
        """Let an event wait; returns what had to go for it, maybe itself: the oldest of the lowest priority.

        A state update is merged into the one that waits for its entity under the same name; for shedding it is
        then as old as its latest update.
        """
        if waiting.size > self._max_bytes:
            return waiting.sheds(SHED_OVERSIZE)
        key = (waiting.room, waiting.entity, waiting.lane)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key)
            self._add(group, waiting)
        elif waiting.lane is Lane.STATE and (latest := next(reversed(group.waits))).event == waiting.event:
            self._merge(latest, waiting)
            waiting = latest
        else:
            self._add(group, waiting)
        level = waiting.priority - int(waiting.since // self._age_step)
        if level > group.level:
            self._link(group, level)
        if self.depth > self._max_items or self.bytes > self._max_bytes:
            return self._shed()
        return []

    def take(self, now: float, groups: int = 1, max_items: int = 100) -> list[Batch]:
        """Take the batches to send next, from at most `groups` groups and with at most `max_items` events in all.

        The highest level goes first; at one level the rooms take turns, and within a room the group goes first
        that came first.  `now` is in the seconds of `Waiting.since`.
        """
        self._promote(now)
        batches: list[Batch] = []
        while self._levels and len(batches) < groups and max_items > 0:
            waits = self._take_next(max_items)
            max_items -= len(waits)
            batches.append(Batch(waits))
        return batches

    def low_water(self, room: str) -> int | None:
        """The smallest seq of the room that is not handled yet, None when nothing of it waits: an update that was
        merged away counts until the one it was merged into has left."""
        lows = self._lows.get(room)
        return None if lows is None else lows.least()

    def waiting(self) -> list[Waiting]:
        """All that wait, in order within each entity."""
        return [waiting for group in self._groups.values() for waiting in group.waits]

    def clear(self) -> list[Waiting]:
        """Forget all that wait and return it."""
        waits = self.waiting()
        self._start()
        return waits

    def keep_states(self) -> list[Shed]:
        """Shed all that waits but the latest states."""
        dropped = self._remove([group for group in self._groups.values() if group.key[2] is not Lane.STATE])
        return coalesce(sorted(shed for waiting in dropped for shed in waiting.sheds(SHED_SNAPSHOTS)))

    def drop(self, room: str) -> list[Waiting]:
        """Forget what waits of a room and return it, in order within each entity."""
        return self._remove([group for group in self._groups.values() if group.room == room])

    def _remove(self, groups: list[_Group]) -> list[Waiting]:
        """Take whole groups out; what waited in them."""
        removed: list[Waiting] = []
        for group in groups:
            self._unlink(group)
            del self._groups[group.key]
            removed += group.waits
        for waiting in removed:
            self._drop(waiting)
        return removed

    def _add(self, group: _Group, waiting: Waiting) -> None:
        group.waits[waiting] = None
        of_priority = self._by_priority.get(waiting.priority)
        if of_priority is None:
            of_priority = self._by_priority[waiting.priority] = OrderedDict()
        of_priority[waiting] = None
        lows = self._lows.get(waiting.room)
        if lows is None:
            lows = self._lows[waiting.room] = _Lows()
        lows.alive += 1
        self._note_low(lows, waiting)
        self.depth += 1
        self.bytes += waiting.size

    def _note_low(self, lows: _Lows, waiting: Waiting) -> None:
        if waiting.low:
            self._serial += 1
            heappush(lows.heap, (waiting.low, self._serial, waiting))

    def _merge(self, latest: Waiting, newer: Waiting) -> None:
        before, low = latest.priority, latest.low
        self.bytes += newer.size - latest.size
        latest.absorb(newer)
        if newer.seq and (not low or newer.seq < low):
            latest.low = newer.seq
            self._note_low(self._lows[latest.room], latest)
        self._drop_priority(latest, before)
        self._by_priority.setdefault(latest.priority, OrderedDict())[latest] = None

    def _drop_priority(self, waiting: Waiting, priority: int) -> None:
        of_priority = self._by_priority[priority]
        del of_priority[waiting]
        if not of_priority:
            del self._by_priority[priority]

    def _drop(self, waiting: Waiting) -> None:
        """Everything about a waiting that leaves but its place in its group."""
        waiting.live = False
        self.depth -= 1
        self.bytes -= waiting.size
        self._drop_priority(waiting, waiting.priority)
        lows = self._lows[waiting.room]
        lows.alive -= 1
        if lows.alive:
            lows.prune()
        else:
            del self._lows[waiting.room]

    def _shed(self) -> list[Shed]:
        sheds: list[Shed] = []
        while self.depth > self._max_items or self.bytes > self._max_bytes:
            reason = SHED_ITEMS if self.depth > self._max_items else SHED_BYTES
            victim = next(iter(self._by_priority[min(self._by_priority)]))
            sheds += victim.sheds(reason)
            self._drop(victim)
            group = self._groups[victim.room, victim.entity, victim.lane]
            del group.waits[victim]
            if not group.waits:
                self._unlink(group)
                del self._groups[group.key]
        return coalesce(sheds)

    def _link(self, group: _Group, level: int) -> None:
        if group.level != -_TOP:
            self._unlink(group)
        group.level = level
        self._levels.setdefault(level, {}).setdefault(group.room, {})[group] = None

    def _unlink(self, group: _Group) -> None:
        rooms = self._levels[group.level]
        groups = rooms[group.room]
        del groups[group]
        if not groups:
            del rooms[group.room]
            if not rooms:
                del self._levels[group.level]
        group.level = -_TOP

    def _promote(self, now: float) -> None:
        """Move what has aged to the cap into the topmost level, where all are equal."""
        cap = MAX_PRIORITY - int(now // self._age_step)
        for level in sorted((level for level in self._levels if cap <= level < _TOP), reverse=True):
            for group in [group for groups in self._levels[level].values() for group in groups]:
                self._link(group, _TOP)

    def _take_next(self, max_items: int) -> list[Waiting]:
        level = max(self._levels)
        rooms = self._levels[level]
        room = next(iter(rooms))
        group = next(iter(rooms[room]))
        waits = self._take_run(group, max_items)
        for waiting in waits:
            self._drop(waiting)
        self._unlink(group)
        if group.waits:
            self._link(group, max(rest.priority - int(rest.since // self._age_step) for rest in group.waits))
        else:
            del self._groups[group.key]
        if room in rooms:
            rooms[room] = rooms.pop(room)  # the other rooms of this level first
        return waits

    def _take_run(self, group: _Group, max_items: int) -> list[Waiting]:
        """The first of the group and those behind it under the same name; a state goes alone."""
        first = next(iter(group.waits))
        waits = list(islice(group.waits, 1 if first.lane is Lane.STATE else max_items))
        for index, waiting in enumerate(waits):
            if waiting.event != first.event:
                del waits[index:]
                break
        for waiting in waits:
            del group.waits[waiting]
        return waits
