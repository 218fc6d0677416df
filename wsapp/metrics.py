"""What a worker counts and reports: one table of figures, and the counters themselves.

Counters are plain integers that the hot path adds to; nothing here locks, since a worker's greenlets share a thread.
`get_metrics()` and the server API give the figures under their keys; `/metrics` gives them under the names of
Prometheus, in base units and with the worker as a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

MILLISECONDS: Final = 0.001  # of a second


class Kind(Enum):
    """How a figure behaves: a COUNTER only grows while its worker lives, a GAUGE goes up and down, a PEAK is the
    highest value so far."""

    COUNTER = "counter"
    GAUGE = "gauge"
    PEAK = "peak"


class Figure(NamedTuple):
    """One number of a worker.  `key` is its name in `get_metrics()`, `name` in `/metrics`, behind `wsapp_`; there its
    value is multiplied by `unit`."""

    key: str
    name: str
    help: str
    kind: Kind = Kind.COUNTER
    unit: float = 1.0

    @property
    def metric(self) -> str:
        """The whole name in `/metrics`."""
        return f"wsapp_{self.name}_total" if self.kind is Kind.COUNTER else f"wsapp_{self.name}"


# What was refused or closed, by limit.
REFUSALS: Final = (
    Figure("connectionsRefused", "connections_refused", "Handshakes over MAX_CONNECTIONS (503)."),
    Figure("handshakesRefused", "handshakes_refused", "Handshakes over WSAPP_MAX_HANDSHAKES_PER_SEC (429)."),
    Figure("tlsHandshakesRefused", "tls_handshakes_refused",
           "TLS handshakes over WSAPP_MAX_TLS_HANDSHAKES_PER_SEC."),
    Figure("addressesRefused", "addresses_refused",
           "Handshakes of an address over WSAPP_MAX_CONNECTIONS_PER_ADDRESS (429)."),
    Figure("usersRefused", "users_refused", "Connections of a user over WSAPP_MAX_CONNECTIONS_PER_USER."),
    Figure("originsRefused", "origins_refused", "Requests of an Origin or Host that is not allowed."),
    Figure("tokensRefused", "tokens_refused", "Tokens that were not accepted."),
    Figure("tokensExpired", "tokens_expired", "Connections closed because their token expired (4500)."),
    Figure("tokensRevoked", "tokens_revoked", "Connections closed because of a revocation (4501)."),
    Figure("forbidden", "forbidden", "Actions that a token, an authorizer or a hook does not allow."),
    Figure("roomsRefused", "rooms_refused", "Subscriptions over WSAPP_MAX_ROOMS."),
    Figure("inboundRefused", "inbound_refused", "Packets over WSAPP_MAX_INBOUND_PER_SEC or _PER_USER."),
    Figure("floodsClosed", "floods_closed", "Connections closed for packets far over that limit (1008)."),
    Figure("oversizeClosed", "oversize_closed", "Messages over WSAPP_MAX_MESSAGE (1009, 413)."),
    Figure("protocolClosed", "protocol_closed", "Connections closed for frames or packets that break the protocol"
                                                " (1002, 1007)."),
    Figure("idleClosed", "idle_closed", "Transports that joined no namespace within WSAPP_CONNECT_TIMEOUT (1008)."),
    Figure("unjoinedClosed", "unjoined_closed", "Transports that joined no namespace, closed to make room for others"
                                                " (1013)."),
    Figure("httpClosed", "http_closed", "Silent HTTP connections that were ended to make room for others."),
    Figure("httpRefused", "http_refused", "HTTP connections that found all others at work (503)."),
    Figure("versionsRefused", "versions_refused", "Handshakes with another version of Engine.IO (400)."),
    Figure("requestsTimedOut", "requests_timed_out", "Requests not complete within WSAPP_REQUEST_TIMEOUT (408)."),
    Figure("answersUnread", "answers_unread", "HTTP answers that were not read within WSAPP_OUTBOX_AGE."),
    Figure("apiRefused", "api_refused", "Requests of the server API that were answered 4xx."),
)

# What became of clients that do not read as fast as they are sent, one for each step down.
LADDER: Final = (
    Figure("slowDeferred", "slow_deferred", "Slow clients: times that a client fell behind."),
    Figure("slowSnapshots", "slow_snapshots", "Slow clients: times that a client got the latest states only."),
    Figure("slowCut", "slow_cut", "Slow clients that were closed (4000)."),
)

# Requests of sessions whose worker is on another host.
FORWARDING: Final = (
    Figure("forwarded", "forwarded", "Requests that were forwarded to the session's worker on another host."),
    Figure("forwardsFailed", "forwards_failed", "Requests of another host's session whose worker was gone (400)."),
    Figure("forwardsRefused", "forwards_refused", "Requests over what a worker forwards at a time (503), or whose "
                                                  "forwarding header no worker wrote (403)."),
)

NAMED: Final = (*REFUSALS, *LADDER, *FORWARDING)  # counted by key

COUNTERS: Final = (
    Figure("totalConnections", "connections_opened", "Connections since the start of the worker."),
    Figure("messagesSent", "messages_sent", "Frames to clients."),
    Figure("messagesReceived", "messages_received", "Messages from clients."),
    Figure("eventsDelivered", "events_delivered", "Events to clients, each once for every client."),
    Figure("eventsDeferred", "events_deferred", "Events that waited for a client's rate or send buffer."),
    Figure("eventsShed", "events_shed", "Events that were not sent, and reported to the client."),
    Figure("publishes", "publishes", "Events published by this worker."),
    Figure("publishFailures", "publish_failures", "Publishes that Redis did not accept at once."),
    Figure("resumed", "sessions_resumed", "Sessions that were resumed with everything they had missed."),
    Figure("recoveryRefused", "recoveries_refused", "Recoveries that were refused: what was missed is not kept."),
    Figure("healed", "events_healed", "Events that were lost on the way from Redis and read from the history."),
    Figure("canaryLost", "canary_probes_lost", "Probes of the worker's own delivery that did not come back."),
    Figure("redelivered", "critical_redelivered", "Critical events that were sent again."),
    Figure("deadLetters", "dead_letters", "Critical events that were not acknowledged in time."),
)
GAUGES: Final = (
    Figure("activeConnections", "connections", "Connections now.", Kind.GAUGE),
    Figure("peakConnections", "connections_peak", "Most connections at one time.", Kind.PEAK),
    Figure("users", "users", "Users with a connection now.", Kind.GAUGE),
    Figure("rooms", "rooms", "Rooms with a member now.", Kind.GAUGE),
    Figure("queuedEvents", "events_queued", "Events that wait in the lanes of users now.", Kind.GAUGE),
    Figure("queuedPublishes", "publishes_queued", "Publications that wait for Redis now.", Kind.GAUGE),
    Figure("canaryDelay", "canary_delay_seconds", "How long the last probe of the worker's own delivery took.",
           Kind.GAUGE, MILLISECONDS),
    Figure("linkUp", "link_up", "1 while the worker reaches Redis and hears what is published.", Kind.GAUGE),
    Figure("ready", "ready", "1 while the worker delivers, as /readyz says.", Kind.GAUGE),
    Figure("draining", "draining", "1 while the worker takes no new connections.", Kind.GAUGE),
    Figure("processCpuSeconds", "process_cpu_seconds", "CPU time of the worker's process, user and system."),
    Figure("processMemoryBytes", "process_resident_memory_bytes", "Resident memory of the worker's process.",
           Kind.GAUGE),
)
FIGURES: Final = (*COUNTERS, *NAMED, *GAUGES)

LATENCY: Final = "event_delivery_seconds"
LATENCY_HELP: Final = "From publish to the socket, once for every client and for each probe of the worker itself."
LATENCY_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # s
_BOUNDS_MS: Final = tuple(bound / MILLISECONDS for bound in LATENCY_BOUNDS)

# What `get_metrics()` adds up over the workers.  A sum of peaks is an upper bound of the cluster's peak.
SUMMED: Final = (*(one.key for one in FIGURES if one.key not in ("canaryDelay", "linkUp", "ready", "draining")),
                 "latencySum", "latencyCount")


class Metrics:
    """The counters of one worker.  `latency_sum` is in milliseconds, from publish to the socket."""

    __slots__ = ("_named", "canary_lost", "dead_letters", "delivered", "healed", "latency_buckets",
                 "latency_sum", "publish_failures", "publishes", "received", "recovery_refused", "redelivered",
                 "resumed", "sent", "shed")

    def __init__(self) -> None:
        self.sent = self.received = self.delivered = self.shed = 0
        self.publishes = self.publish_failures = 0
        self.resumed = self.recovery_refused = self.healed = self.canary_lost = 0
        self.redelivered = self.dead_letters = 0
        self.latency_sum = 0.0
        self.latency_buckets = [0] * (len(LATENCY_BOUNDS) + 1)  # each alone, the last one without a bound
        self._named = {one.key: 0 for one in NAMED}

    def count(self, name: str) -> None:
        """One more of `NAMED`, by its key."""
        self._named[name] += 1

    def took(self, latency_ms: float, deliveries: int) -> None:
        """An event reached the sockets of so many clients, this long after it was published."""
        self.latency_sum += deliveries * latency_ms
        self.latency_buckets[bisect_left(_BOUNDS_MS, latency_ms)] += deliveries

    def facts(self) -> dict[str, float]:
        """The counters under their keys."""
        return {"messagesSent": self.sent, "messagesReceived": self.received, "eventsDelivered": self.delivered,
                "eventsShed": self.shed, "latencySum": round(self.latency_sum, 3),
                "latencyCount": sum(self.latency_buckets), "publishes": self.publishes,
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
    total = dict.fromkeys(SUMMED, 0.0)
    count = 0
    for facts in workers:
        count += 1
        for name in total:
            value = facts.get(name, 0)
            total[name] += value if isinstance(value, (int, float)) else 0
    return with_average({**{name: int(value) if value.is_integer() else value for name, value in total.items()},
                         "workers": count})


def metrics_table() -> str:
    """The figures as a table in Markdown, for the documentation."""
    rows = [(one.metric, one.key, "gauge" if one.kind is Kind.PEAK else one.kind.value, one.help) for one in FIGURES]
    rows += [(f"wsapp_{LATENCY}", "averageLatency (ms)", "histogram", LATENCY_HELP), *OF_SERVER]
    lines = [f"| `{metric}` | {f'`{key}`' if key and ' ' not in key else key} | {kind} | {text} |"
             for metric, key, kind, text in rows]
    return "\n".join(["| in `/metrics` | in `get_metrics()` | type | |", "|---|---|---|---|", *lines])


# Beside the figures of each worker: metric, key, type, text.
OF_SERVER: Final[tuple[tuple[Any, ...], ...]] = (
    ("wsapp_mode", "", "gauge", "1 for the mode the worker is in: `normal`, `degraded` or `catching_up`."),
    ("wsapp_limit", "", "gauge", "Limits of the worker that answers, by setting."),
    ("wsapp_workers", "`workers` (cluster)", "gauge", "Workers that this answer describes."),
    ("wsapp_workers_missing", "", "gauge", "Workers that did not answer in time and are left out."),
    ("wsapp_build_info", "", "gauge", "Always 1; versions of wsapp and Python."),
)
