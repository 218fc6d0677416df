"""The outside of wsapp: histories, live channels, sessions and leases, in Redis or in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsapp.core.ports import Limits

if TYPE_CHECKING:
    from wsapp.core.ports import Backend, Reading

__all__ = ["Limits", "open_backend"]


def open_backend(url: str | None, limits: Limits, *, channel: str, prefix: str = "wsapp:",
                 timeout: float = 0.25, partitions: int = 1, reading: Reading | None = None) -> Backend:
    """The backend for a URL: memory for None and `memory://`, else Redis or Valkey (`redis://`, `rediss://`,
    `unix://`, `valkey://`, `valkeys://`, and all but `unix` with `+sentinel` or `+cluster`), with the rooms divided
    into `partitions`.

    Connects to nothing: that happens with the first call and with `Backend.start`.  `channel` is the name of the
    stock Flask-SocketIO channel, `timeout` (seconds) bounds every wait, `reading` reads the live connection (without it
    a thread that blocks does).  Raises SettingsError for a URL it cannot
    read, and ImportError when redis-py or hiredis is missing.
    """
    if url is None or url == "memory://":
        from wsapp.backends.memory import MemoryBackend
        return MemoryBackend(limits)
    from wsapp.backends.redis_live import read_by_thread
    reading = reading or read_by_thread
    if partitions > 1:
        from wsapp.backends.partitions import PartitionedBackend
        return PartitionedBackend(url, limits, channel=channel, prefix=prefix, timeout=timeout, partitions=partitions,
                                  reading=reading)
    from wsapp.backends.redis_broker import RedisBackend
    return RedisBackend(url, limits, channel=channel, prefix=prefix, timeout=timeout, reading=reading)
