"""Who watches rooms, in this process."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping

from wsapp.core.ports import Cluster, Watching


class MemoryPresence:
    """`Presence` of one process.  `wanted()` are the rooms whose live channel is followed; `clock` gives seconds."""

    def __init__(self, cluster: Cluster, wanted: Callable[[], Collection[str]], clock: Callable[[], float]) -> None:
        self._cluster, self._wanted, self._clock = cluster, wanted, clock
        self._asks: defaultdict[str, set[str]] = defaultdict(set)
        self._until: dict[str, float] = {}
        self._watching: dict[str, dict[str, int]] = {}
        self._rooms: defaultdict[str, dict[tuple[str, str], int]] = defaultdict(dict)

    def ask(self, boot: str, room: str, ttl: float) -> None:
        """As `Presence.ask`; it ends with the lease itself."""
        self._asks[boot].add(room)

    def unask(self, boot: str, room: str) -> None:
        """As `Presence.unask`."""
        self._asks[boot].discard(room)

    def _forget_dead(self) -> Collection[str]:
        alive = self._cluster.workers()
        now = self._clock()
        for boot in [boot for boot in self._watching if boot not in alive or self._until[boot] <= now]:
            del self._watching[boot]
            self._asks.pop(boot, None)
        return alive

    def sync(self, boot: str, counts: Mapping[str, int], ttl: float, *, anew: bool) -> frozenset[str] | None:
        """As `Presence.sync`."""
        alive = self._forget_dead()
        if anew:
            self._watching[boot] = {}
        elif boot not in self._watching:
            return None
        self._until[boot] = self._clock() + ttl
        said = {**self._watching[boot], **counts}
        self._watching[boot] = {room: count for room, count in said.items() if count}
        return frozenset(room for asker, rooms in self._asks.items() if asker in alive for room in rooms)

    def update(self, boot: str, room: str, changes: Mapping[str, int]) -> None:
        """As `Presence.update`."""
        said = {**self._rooms[room], **{(boot, user): count for user, count in changes.items()}}
        self._rooms[room] = {who: count for who, count in said.items() if count}
        for asker, rooms in list(self._asks.items()):
            if room in rooms:
                self._cluster.send(asker, f"presence {room}".encode())

    def members(self, room: str) -> dict[str, int]:
        """As `Presence.members`."""
        alive = self._cluster.workers()
        self._rooms[room] = {who: count for who, count in self._rooms[room].items() if who[0] in alive}
        found: Counter[str] = Counter()
        for (_, user), count in self._rooms[room].items():
            found[user] += count
        return dict(found)

    def watchers(self, room: str) -> Watching:
        """As `Presence.watchers`."""
        self._forget_dead()
        followed = int(room in self._wanted())
        connections = sum(said.get(room, 0) for said in self._watching.values())
        return Watching(max(connections, followed), followed)
