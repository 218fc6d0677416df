"""The figures of one worker, and those of all workers, for `get_metrics()`, leases and `/metrics`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from wsapp.core.connections import ConnectionManager
from wsapp.core.events import KINDS
from wsapp.core.link import LinkState
from wsapp.core.ports import Backend
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics, summed, with_average
from wsapp.runtime.cluster_calls import ClusterCalls
from wsapp.runtime.link import Links
from wsapp.runtime.outlets import Outlets
from wsapp.runtime.watch import Watch

VERB: Final = "facts"  # the question to every worker
_MEMORY: Final = Path("/proc/self/statm")  # Linux; elsewhere the figure is left out


class Figures:
    """One worker's.  `draining()` says whether the worker takes no new connections."""

    def __init__(self, backend: Backend, connections: ConnectionManager, outlet: Outlets, links: Links, watch: Watch,
                 metrics: Metrics, calls: ClusterCalls, draining: Callable[[], bool], version: str) -> None:
        self._backend, self._connections, self._outlet, self._links = backend, connections, outlet, links
        self._watch, self._metrics, self._calls, self._draining = watch, metrics, calls, draining
        self._build = {"version": version, "python": platform.python_version()}
        calls.offer(VERB, lambda _question: self.report())

    def own(self) -> dict[str, float]:
        """This worker's figures by key; see `wsapp.metrics.FIGURES`."""
        connections, draining = self._connections, self._draining()
        trouble = self._watch.trouble()
        return {"totalConnections": connections.total, "activeConnections": connections.get_connection_count(),
                "peakConnections": connections.peak, "users": connections.get_user_count(),
                "rooms": sum(1 for name, room in connections.registry.rooms.items()
                             if room.members and name.startswith(KINDS)),
                "eventsDeferred": connections.throttler.deferred,
                "queuedEvents": connections.throttler.get_queue_depth(), "queuedPublishes": self._outlet.waiting(),
                "linkUp": int(self._links.state is not LinkState.DOWN and self._backend.deaf is None),
                "ready": int(trouble is None and not draining), "draining": int(draining),
                "processCpuSeconds": round(time.process_time(), 3), **_memory(),
                **self._metrics.facts(), **self._watch.facts()}

    def report(self) -> dict[str, object]:
        """This worker's figures with the buckets of its latency histogram, its mode and its versions, for
        `/metrics`."""
        return {**self.own(), **self._build, "latencyBuckets": list(self._metrics.latency_buckets),
                "mode": str(self._links.state)}

    def everywhere(self) -> dict[str, Any]:
        """This worker's figures, at the top and as `worker`; all workers' sums as `cluster`, which is None while Redis
        is unavailable.  The figures of the others are as old as their last heartbeat."""
        own = with_average(self.own())
        try:
            others = {boot: facts for boot, facts in self._backend.cluster.workers().items()
                      if boot != self._calls.boot}
        except BrokerUnavailable:
            return {**own, "worker": own, "cluster": None}
        return {**own, "worker": own, "cluster": summed([*others.values(), own])}

    def reports(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The reports of all workers, by boot id, of this moment, and the workers that did not answer.  Each worker
        is asked, since its counters must never be seen to go back, as they would between its lease and itself.
        While Redis is unavailable this worker's alone."""
        try:
            found = self._calls.ask(VERB)
        except BrokerUnavailable:
            return {self._calls.boot: self.report()}, []
        return found.by_boot, found.missing


def _memory() -> dict[str, float]:
    try:
        pages = int(_MEMORY.read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return {}
    return {"processMemoryBytes": pages * os.sysconf("SC_PAGE_SIZE")}
