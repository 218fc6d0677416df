"""A limited number of places, and who has to give one up when all are taken.

Whoever holds a place and is not at work can lose it: the address that has most of them loses its oldest.  So many
connections of few addresses take from each other, and a newcomer from another address always finds a place.  While
there is room nobody loses anything, and there is no limit for one address.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Places(Generic[K]):
    """Who holds a place, by address.  Each is *idle* (it can lose its place) or at work."""

    def __init__(self) -> None:
        self._address: dict[K, str] = {}
        self._idle: dict[str, OrderedDict[K, float]] = {}  # of each address, the oldest first: since when

    def __len__(self) -> int:
        return len(self._address)

    def __contains__(self, key: K) -> bool:
        return key in self._address

    def enter(self, key: K, address: str, now: float) -> None:
        """Take a place, idle."""
        self._address[key] = address
        self._idle.setdefault(address, OrderedDict())[key] = now

    def leave(self, key: K) -> None:
        """Give the place up.  Idempotent."""
        self.work(key)
        self._address.pop(key, None)

    def work(self, key: K) -> None:
        """From now on it cannot lose its place.  Idempotent."""
        address = self._address.get(key)
        idle = self._idle.get(address) if address is not None else None
        if idle is not None and idle.pop(key, None) is not None and not idle:
            del self._idle[str(address)]

    def rest(self, key: K, now: float) -> None:
        """From now on it is idle, the youngest of its address; nothing for one without a place."""
        address = self._address.get(key)
        if address is not None:
            idle = self._idle.setdefault(address, OrderedDict())
            idle[key] = now
            idle.move_to_end(key)

    def move(self, key: K, address: str) -> None:
        """It turned out to be of another address, as the proxy in front tells; it is at work."""
        if key in self._address:
            self.work(key)
            self._address[key] = address

    def idle_of(self, address: str) -> int:
        """How many of an address can lose their places."""
        return len(self._idle.get(address, ()))

    def at_work(self) -> int:
        """How many cannot lose their places."""
        return len(self._address) - sum(map(len, self._idle.values()))

    def address_of(self, key: K) -> str:
        """"" for one without a place."""
        return self._address.get(key, "")

    def oldest(self) -> tuple[K, float] | None:
        """Who is the next to lose its place, and since when it is idle."""
        if not self._idle:
            return None
        return next(iter(max(self._idle.values(), key=len).items()))

    def idle_since(self, before: float) -> Iterator[K]:
        """All that have been idle since a moment before `before`."""
        for idle in self._idle.values():
            for key, since in idle.items():
                if since >= before:
                    break
                yield key
