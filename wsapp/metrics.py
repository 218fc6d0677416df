"""What a worker counts, and how the counts of many become one.

Counters are plain integers that the hot path adds to; nothing here locks, since a worker's greenlets share a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

# What was refused or closed, by limit.
REFUSALS: Final = ("connectionsRefused", "handshakesRefused", "tlsHandshakesRefused", "addressesRefused",
                   "usersRefused", "originsRefused", "tokensRefused", "tokensExpired", "tokensRevoked", "forbidden",
                   "roomsRefused", "inboundRefused", "floodsClosed", "oversizeClosed", "protocolClosed", "idleClosed",
                   "versionsRefused",
                   "requestsTimedOut", "answersUnread", "apiRefused")

# What became of clients that do not read as fast as they are sent, one name for each step down.
LADDER: Final = ("slowJoined", "slowDeferred", "slowSnapshots", "slowCut")

# Requests of sessions whose worker is on another host.
FORWARDING: Final = ("forwarded", "forwardsFailed", "forwardsRefused")

NAMED: Final = (*REFUSALS, *LADDER, *FORWARDING)  # counted by name

SUMMED: Final = (*NAMED, "totalConnections", "activeConnections", "messagesSent", "messagesReceived",
                 "eventsDelivered", "eventsDeferred", "eventsShed", "latencySum", "latencyCount", "publishes",
                 "publishFailures", "resumed", "recoveryRefused", "healed", "canaryLost", "redelivered", "deadLetters",
                 "handedOff")

GAUGES: Final = ("active", "canaryDelay", "peak", "average", "users", "workers", "queued")


class Metrics:
    """The counters of one worker.  `latency_sum` is in milliseconds, from publish to the socket."""

    __slots__ = ("_named", "canary_lost", "dead_letters", "deferred", "delivered", "healed", "latency_count",
                 "latency_sum", "publish_failures", "publishes", "received", "recovery_refused", "redelivered",
                 "resumed", "sent", "shed")

    def __init__(self) -> None:
        self.sent = self.received = self.delivered = self.deferred = self.shed = 0
        self.publishes = self.publish_failures = 0
        self.resumed = self.recovery_refused = self.healed = self.canary_lost = 0
        self.redelivered = self.dead_letters = 0
        self.latency_sum = 0.0
        self.latency_count = 0
        self._named = dict.fromkeys(NAMED, 0)

    def count(self, name: str) -> None:
        """One more of `NAMED`."""
        self._named[name] += 1

    def facts(self) -> dict[str, float]:
        """The counters under their wire names."""
        return {"messagesSent": self.sent, "messagesReceived": self.received, "eventsDelivered": self.delivered,
                "eventsDeferred": self.deferred, "eventsShed": self.shed, "latencySum": round(self.latency_sum, 3),
                "latencyCount": self.latency_count, "publishes": self.publishes,
                "publishFailures": self.publish_failures, "resumed": self.resumed,
                "recoveryRefused": self.recovery_refused, "healed": self.healed, "canaryLost": self.canary_lost,
                "redelivered": self.redelivered, "deadLetters": self.dead_letters,
                **self._named}


def with_average(facts: Mapping[str, float]) -> dict[str, float]:
    """The facts with `averageLatency` in ms, the mean time from publish to socket over all deliveries so far (0.0
    before the first)."""
    count = facts.get("latencyCount", 0)
    return {**facts, "averageLatency": round(facts.get("latencySum", 0.0) / count, 3) if count else 0.0}


def summed(workers: Iterable[Mapping[str, object]]) -> dict[str, float]:
    """The counters of all workers as one; the peaks are added too, so the cluster's peak is an upper bound."""
    total = dict.fromkeys((*SUMMED, "peakConnections", "users"), 0.0)
    count = 0
    for facts in workers:
        count += 1
        for name in total:
            value = facts.get(name, 0)
            total[name] += value if isinstance(value, (int, float)) else 0
    return with_average({**{name: int(value) if value.is_integer() else value for name, value in total.items()},
                         "workers": count})


def prometheus(facts: Mapping[str, object]) -> str:
    """The numbers in the text format of Prometheus (version 0.0.4)."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            flat = "".join("_" + char.lower() if char.isupper() else char for char in name)
            kind = "gauge" if name.startswith(GAUGES) else "counter"
            lines += [f"# TYPE wsapp_{flat} {kind}", f"wsapp_{flat} {value}"]
    return "\n".join(lines) + "\n"
