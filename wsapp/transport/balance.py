"""Which worker takes the next connection: the ones ahead step aside for a moment.

All workers wait on one listening socket, and the kernel wakes them all for each connection; whoever runs first has it,
and on a quiet machine that is always the same one.  So each writes its number of connections into a page that all of
them map, and one that is ahead of a living colleague waits a moment before it accepts.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

SLOTS: Final = 64
SLOT: Final = struct.Struct("=II")  # pid, connections
STEP_ASIDE: Final = 0.003  # seconds for a colleague to be first; bounds the harm when the others are stuck
DRAINED: Final = 2**32 - 1  # connections of a worker that takes nobody: all who do are behind it


class Balance:
    """One worker's slot in the shared page.  `number` is the worker's own, from the master's count."""

    def __init__(self, directory: Path, number: int) -> None:
        self._offset = number % SLOTS * SLOT.size
        descriptor = os.open(directory / "load", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, SLOTS * SLOT.size)
            self._page = mmap.mmap(descriptor, SLOTS * SLOT.size)
        finally:
            os.close(descriptor)

    def is_ahead(self, connections: int) -> bool:
        """Tell how many connections this worker has; returns whether a living colleague has fewer."""
        SLOT.pack_into(self._page, self._offset, os.getpid(), connections)
        return connections > min(self._others(), default=connections)

    def _others(self) -> list[int]:
        counts = []
        for pid, connections in SLOT.iter_unpack(self._page[:]):
            if pid and pid != os.getpid() and _alive(pid):
                counts.append(connections)
        return counts

    def close(self) -> None:
        """Leave the page.  Idempotent."""
        if not self._page.closed:
            SLOT.pack_into(self._page, self._offset, 0, 0)
            self._page.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
