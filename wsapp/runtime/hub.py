"""The parts of one worker, put together once by `wsapp.server` and handed to handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wsapp.core.connections import ConnectionManager
from wsapp.core.ports import Backend
from wsapp.core.session import Session
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

    def run_hooks(self, name: str, session: Session, *args: object) -> None:
        """Call the host's hooks of `connect` or `disconnect`.  Raises what they raise."""
        for hook in self.hooks[name]:
            hook(session, *args)

    def require_subscribe(self, session: Session, room: str, *, presence: bool = False) -> None:
        """Raises RequestError (`forbidden`) unless the session may join the room, and with `presence` see who is
        there, and no hook of the host refuses it."""
        self.admission.require(session, "read", room)
        if presence:
            self.admission.require(session, "presence", room)
        for hook in self.hooks["subscribe"]:
            if hook(session, room) is False:
                raise self.admission.denied(session, "read", room, "by a hook")
