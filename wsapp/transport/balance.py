"""Which worker takes the next connection: the ones ahead step aside for a moment.

All workers wait on one listening socket, and the kernel wakes them all for each connection; whoever runs first has it,
and on a quiet machine that is always the same one.  So each writes its number of connections into a page that all of
them map, and one that is ahead of a living colleague waits a moment before it accepts.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from pathlib import Path
from typing import Final

from wsapp.transport import runtime_directory

log = logging.getLogger(__name__)

SLOTS: Final = 64
SLOT: Final = struct.Struct("=II")  # pid, connections
STEP_ASIDE: Final = 0.003  # seconds for a colleague to be first; bounds the harm when the others are stuck
DRAINED: Final = 2**32 - 1  # connections of a worker that takes nobody: all who do are behind it


class Balance:
    """One worker's slot in the shared page.  `number` is the worker's own, from the master's count."""

    def __init__(self, directory: Path, number: int) -> None:
        self._offset = number % SLOTS * SLOT.size
        self._path = directory / "load"
        self._inode, self._page = _open(self._path)

    def heal(self) -> None:
        """Share a page again when the file was removed, or a colleague has made another."""
        try:
            if self._path.stat().st_ino == self._inode:
                return
        except FileNotFoundError:
            log.warning("%s is gone: it is made again", self._path)
        try:
            runtime_directory.require(self._path.parent)
            self._inode, page = _open(self._path)
        except OSError as error:
            log.error("the workers do not see each other's connections: %s", error)
            return
        self._page.close()
        self._page = page

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


def _open(path: Path) -> tuple[int, mmap.mmap]:
    """The file's identity, and its page."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, SLOTS * SLOT.size)
        return os.fstat(descriptor).st_ino, mmap.mmap(descriptor, SLOTS * SLOT.size)
    finally:
        os.close(descriptor)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
