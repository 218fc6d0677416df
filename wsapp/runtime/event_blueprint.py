"""A feature's socket events and its HTTP routes in one file, registered later, as Flask does with routes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import Blueprint

from wsapp.core.session import Session

if TYPE_CHECKING:
    from wsapp.runtime.hub import Hub


@dataclass(slots=True)
class Call:
    """One event of a client on its way through a handler.  What is put into `after` runs once the acknowledgement is
    sent, before the client's next event is looked at."""

    session: Session
    hub: Hub
    after: list[Callable[[], None]] = field(default_factory=list)


EventHandler = Callable[[Call, Any], dict[str, object] | None]


class EventBlueprint(Blueprint):
    """A Flask blueprint that also collects handlers of socket events.

        updates = EventBlueprint("updates", __name__)

        @updates.event("subscribe-agent")
        def subscribe(call, payload): ...

    A handler gets the call and the event's first argument (None when there is none); what it returns is merged into
    the acknowledgement `{ok: true, ...}`.  A WsappError becomes `{ok: false, error}`.
    """

    def __init__(self, name: str, import_name: str, **options: Any) -> None:
        super().__init__(name, import_name, **options)
        self.events: dict[str, EventHandler] = {}

    def event(self, name: str) -> Callable[[EventHandler], EventHandler]:
        """Register a handler for the event `name`."""

        def register(handler: EventHandler) -> EventHandler:
            self.events[name] = handler
            return handler

        return register
