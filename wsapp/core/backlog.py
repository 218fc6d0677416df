"""What a receiver (one session) has not got yet of one room: bounded, reported when it is shed, ordered per entity.

A `Backlog` is immutable.  Receivers that stand at the same place share it, and so the work of making it and the frame
that comes out of it: `following` adds what was published since, `take` gives what is sent next and what is left.

Events wait in groups, one per (lane, entity).  A group is what leaves as one batch; nothing is ever merged across
groups.  Which group leaves next depends on its level: the priority of its most urgent event plus one for every
`AGE_STEP_S` seconds of waiting, capped at `MAX_PRIORITY`.  Ageing counts the ticks of a common grid, so the order of
two waiting events below the cap never changes with time: a level is the fixed number `priority - tick(since)`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Final, NamedTuple

from wsapp.core.events import MAX_PRIORITY, TASK_UPDATE, THOUGHT, Lane

SHED_ITEMS: Final = "items"        # more than max_items were waiting
SHED_BYTES: Final = "bytes"        # more than max_bytes were waiting
SHED_SNAPSHOTS: Final = "snapshots"  # the receiver is so far behind that only the latest states are kept
SHED_OVERSIZE: Final = "oversize"  # the event alone is larger than max_bytes

AGE_STEP_S: Final = 1.0  # seconds of waiting that are worth one priority
_MAX_RUNS: Final = 32  # runs of merged-away numbers kept exactly per state update
_SHARED: Final = 8  # neighbours of a backlog that are remembered for others at the same place


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
    """One event that waits; shared by all who wait for it, so never changed.

    `item` is what the receiver's runtime delivers (a Publication or a dict), `size` its bytes, `since` when it began to
    wait in seconds.  `seq` 0 marks an event that is in no history.  `merged` is how many older updates it stands for
    and `low` the smallest seq among them and itself.
    """

    __slots__ = ("entity", "event", "id", "item", "lane", "low", "merged", "priority", "room", "runs", "seq", "since",
                 "size")

    def __init__(self, event: str, priority: int, lane: Lane, entity: str, room: str, seq: int, id: str,
                 item: object, size: int, since: float) -> None:
        self.event, self.priority, self.lane, self.entity, self.room = event, priority, lane, entity, room
        self.seq, self.id, self.item, self.size, self.since = seq, id, item, size, since
        self.low, self.merged = seq, 0
        self.runs: tuple[tuple[int, int, int], ...] = ()  # (first, last, count) of the numbers merged away

    def __repr__(self) -> str:
        return f"<Waiting {self.event} {self.room}#{self.seq} p{self.priority} +{self.merged}>"

    def after(self, older: Waiting) -> Waiting:
        """This update, standing for the older one too: it waits since the first, as urgently as the more urgent."""
        both = Waiting(self.event, max(self.priority, older.priority), self.lane, self.entity, self.room, self.seq,
                       self.id, self.item, self.size, older.since)
        runs = _extended(list(older.runs), (older.seq, older.seq, 1))
        for run in self.runs:
            runs = _extended(runs, run)
        both.runs, both.merged = tuple(runs), 1 + older.merged + self.merged
        lows = [low for low in (older.low, self.low) if low]
        both.low = min(lows, default=0)
        return both

    def sheds(self, reason: str) -> list[Shed]:
        """What is reported when this is dropped: everything it stands for, in runs."""
        runs = _extended(list(self.runs), (self.seq, self.seq, 1))
        return [Shed(self.room, first, last, count, reason, self.priority) for first, last, count in runs]

    def level(self) -> int:
        """Its urgency on the common grid of time: the higher, the sooner it leaves."""
        return self.priority - int(self.since // AGE_STEP_S)


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

    __slots__ = ("entity", "event", "frames", "lane", "merged", "room", "waits")

    def __init__(self, waits: list[Waiting]) -> None:
        first = waits[0]
        self.frames: dict[Any, Any] = {}  # what the runtime made of it, shared by its receivers
        self.event, self.room, self.entity, self.lane = first.event, first.room, first.entity, first.lane
        self.waits, self.merged = waits, first.merged if first.lane is Lane.STATE else 0

    def __repr__(self) -> str:
        return f"<Batch {self.event} {self.room} {self.entity} {len(self.waits)}+{self.merged}>"


Group = tuple[Lane, str]


class Following(NamedTuple):
    """A backlog with what came since: what had to be shed for it, how many bytes came, and how many events."""

    backlog: Backlog
    sheds: tuple[Shed, ...] = ()
    came: int = 0
    count: int = 0  # type: ignore[assignment]  # shadows tuple.count


class Backlog:
    """What a receiver still has to get of one room, in order of arrival; a state stands where its first update stood.

    Every event that is put in is later taken, merged into one that is taken, or reported as shed.  Events of one
    entity leave in the order of their seq.
    """

    __slots__ = ("_following", "_low", "_taken", "bytes", "waits")

    def __init__(self, waits: tuple[Waiting, ...] = ()) -> None:
        self.waits = waits
        self.bytes = sum(waiting.size for waiting in waits)
        self._low = -1
        self._following: dict[object, Following] = {}
        self._taken: dict[object, tuple[list[Batch], Backlog]] = {}

    def __len__(self) -> int:
        return len(self.waits)

    @property
    def low(self) -> int:
        """The smallest seq that is not handled yet, 0 when nothing that has one waits: an update that was merged away
        counts until the one it was merged into has left."""
        if self._low < 0:
            self._low = min((waiting.low for waiting in self.waits if waiting.low), default=0)
        return self._low

    def remembered(self, key: object) -> Following | None:
        """What `following` gave under this key."""
        return self._following.get(key)

    def following(self, new: Iterable[Waiting], max_items: int, max_bytes: int, key: object = None) -> Following:
        """With what came since, and what had to be shed for it: the oldest of the lowest priority.  A state update is
        merged into the one that waits for its entity under the same name; it is then as old as its latest update.
        `key` names the new ones: others at the same place find the result by `remembered`."""
        sheds: list[Shed] = []
        waits = dict(enumerate(self.waits))
        came = count = 0
        size, latest = self.bytes, _latest_states(self.waits)
        for waiting in new:
            came += waiting.size
            count += 1
            if waiting.size > max_bytes:
                sheds += waiting.sheds(SHED_OVERSIZE)
                continue
            size += waiting.size
            at = latest.get(waiting.entity) if waiting.lane is Lane.STATE else None
            if at is not None and waits[at].event == waiting.event:
                size -= waits[at].size
                waits[at] = waiting.after(waits[at])
                continue
            at = len(waits)
            waits[at] = waiting
            if waiting.lane is Lane.STATE:
                latest[waiting.entity] = at
        if len(waits) > max_items or size > max_bytes:
            sheds += _shed(waits, size, max_items, max_bytes)
        found = Following(Backlog(tuple(waits.values())), tuple(coalesce(sheds)), came, count)
        if key is not None:
            if len(self._following) >= _SHARED:
                self._following.clear()
            self._following[key] = found
        return found

    def only_states(self) -> Following:
        """Without all but the latest states: the receiver is far behind."""
        left = tuple(waiting for waiting in self.waits if waiting.lane is Lane.STATE)
        if len(left) == len(self.waits):
            return Following(self)
        dropped = [shed for waiting in self.waits if waiting.lane is not Lane.STATE
                   for shed in waiting.sheds(SHED_SNAPSHOTS)]
        return Following(Backlog(left), tuple(coalesce(sorted(dropped))))

    def without(self, dropped: Collection[Waiting], reason: str) -> Following:
        """Without some of them."""
        left = tuple(waiting for waiting in self.waits if waiting not in dropped)
        sheds = [shed for waiting in self.waits if waiting in dropped for shed in waiting.sheds(reason)]
        return Following(Backlog(left), tuple(coalesce(sorted(sheds))))

    def take(self, now: float, groups: int = 1, max_items: int = 100) -> tuple[list[Batch], Backlog]:
        """What is sent next, from at most `groups` groups and with at most `max_items` events in all, and what is left.
        The highest level goes first, at one level the group that came first.  `now` is in the seconds of
        `Waiting.since`."""
        cap = MAX_PRIORITY - int(now // AGE_STEP_S)
        key = groups, max_items, cap
        found = self._taken.get(key)
        if found is None:
            if len(self._taken) >= _SHARED:
                self._taken.clear()
            found = self._taken[key] = self._take(cap, groups, max_items)
        return found

    def level(self, now: float) -> int:
        """That of the group that leaves next."""
        cap = MAX_PRIORITY - int(now // AGE_STEP_S)
        return min(cap, max(waiting.level() for waiting in self.waits))

    def _take(self, cap: int, groups: int, max_items: int) -> tuple[list[Batch], Backlog]:
        by_group: dict[Group, list[Waiting]] = {}
        for waiting in self.waits:
            by_group.setdefault((waiting.lane, waiting.entity), []).append(waiting)
        heap = [(-min(cap, _level(waits)), number, group)
                for number, (group, waits) in enumerate(by_group.items())]
        heapify(heap)
        batches: list[Batch] = []
        while heap and len(batches) < groups and max_items > 0:
            _, number, group = heappop(heap)
            waits = by_group[group]
            run = _run(waits, max_items)
            max_items -= len(run)
            batches.append(Batch(run))
            del waits[:len(run)]
            if waits:
                heappush(heap, (-min(cap, _level(waits)), number, group))
        taken = {waiting for batch in batches for waiting in batch.waits}
        if len(taken) == len(self.waits):
            return batches, EMPTY
        return batches, Backlog(tuple(waiting for waiting in self.waits if waiting not in taken))


EMPTY: Final = Backlog()


def _level(waits: Sequence[Waiting]) -> int:
    return max(waiting.level() for waiting in waits)


def _latest_states(waits: Sequence[Waiting]) -> dict[str, int]:
    return {waiting.entity: at for at, waiting in enumerate(waits) if waiting.lane is Lane.STATE}


def _run(waits: Sequence[Waiting], max_items: int) -> list[Waiting]:
    """The first of a group and those behind it under the same name; a state goes alone."""
    first = waits[0]
    run = list(waits[:1 if first.lane is Lane.STATE else max_items])
    for index, waiting in enumerate(run):
        if waiting.event != first.event:
            return run[:index]
    return run


def _shed(waits: dict[int, Waiting], size: int, max_items: int, max_bytes: int) -> list[Shed]:
    """Take out in place what is too much: the oldest of the lowest priority."""
    sheds: list[Shed] = []
    for at in sorted(waits, key=lambda at: (waits[at].priority, waits[at].seq)):
        if len(waits) <= max_items and size <= max_bytes:
            break
        reason = SHED_ITEMS if len(waits) > max_items else SHED_BYTES
        victim = waits.pop(at)
        size -= victim.size
        sheds += victim.sheds(reason)
    return sheds
