"""Wall clocks that jump: of each worker and of Redis, by libfaketime.  Monotonic clocks go on as they are."""

from __future__ import annotations

import glob
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LIBRARY: Final = "/usr/lib/*/faketime/libfaketimeMT.so.1"
SEEN_WITHIN: Final = 1.0  # seconds until a process sees its clock jump


def library() -> str | None:
    """Where libfaketime is; None when it is not installed."""
    return next(iter(sorted(glob.glob(LIBRARY))), None)


class Clocks:
    """A directory with the offset of each process; none moves until it is told to."""

    def __init__(self) -> None:
        self.library = library()
        self._directory = Path(tempfile.mkdtemp(prefix="wsapp-test-clocks-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def env(self, name: str) -> dict[str, str]:
        """What a process with the clock `name` is started with; nothing without libfaketime."""
        if self.library is None:
            return {}
        return {"LD_PRELOAD": self.library, "FAKETIME_TIMESTAMP_FILE": str(self._directory / name),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
                "FAKETIME_CACHE_DURATION": str(round(SEEN_WITHIN)), "CLOCKS_OF_WORKERS": str(self._directory)}

    def move(self, name: str, seconds: int) -> None:
        """Let a clock be so far ahead of the true time (behind it below 0) from its next look at the file on."""
        fresh = self._directory / f"{name}.new"
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._directory / name)
