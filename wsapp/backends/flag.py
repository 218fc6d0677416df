"""Waiting for another thread where a signal handler may raise in the middle."""

from __future__ import annotations

import queue


class Flag:
    """As `threading.Event`, whose `wait` is Python and leaves its lock in a wrong state when a signal handler raises in
    it; here the waiting is one call into C (`queue.SimpleQueue` is made for signal handlers and finalizers)."""

    __slots__ = ("_queue", "_set")

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._set = False

    def set(self) -> None:
        """Let those who wait go on."""
        self._set = True
        self._queue.put(None)

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; whether it is set."""
        if not self._set:
            try:
                self._queue.get(timeout=max(0.0, seconds))
            except queue.Empty:
                return self._set
            self._queue.put(None)  # for the next who waits
        return True
