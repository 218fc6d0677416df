"""The parts of one worker, put together once by `wsapp.server` and handed to handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wsapp.core.connections import ConnectionManager
from wsapp.core.ports import Backend
from wsapp.core.throttle import EventThrottler
from wsapp.metrics import Metrics
from wsapp.runtime.admission import Admission
from wsapp.runtime.critical import CriticalDelivery
from wsapp.runtime.delivery import Delivery
from wsapp.runtime.inbound import Inbound
from wsapp.runtime.lifecycle import Lifecycle
from wsapp.runtime.presence import PresenceKeeper
from wsapp.settings import Settings


@dataclass(slots=True)
class Hub:
    """Everything a handler may need.  `identify(auth, environ)` gives the user id, None for anonymous; it raises
    `ConnectionRefusedError` to turn the client away."""

    settings: Settings
    backend: Backend
    connections: ConnectionManager
    throttler: EventThrottler
    delivery: Delivery
    lifecycle: Lifecycle
    metrics: Metrics
    identify: Callable[[Any, dict[str, Any]], str | None]
    hooks: dict[str, list[Callable[..., object]]]
    critical: CriticalDelivery
    admission: Admission
    inbound: Inbound
    presence: PresenceKeeper
    mode: Callable[[], str]
