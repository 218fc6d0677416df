"""What proves that events arrive, and finds those that did not: the canary, the heads of rooms, the beacon."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import gevent

from wsapp.core.connections import ConnectionManager
from wsapp.core.link import LinkState
from wsapp.core.ports import Backend
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.canary import Canary
from wsapp.runtime.delivery import Delivery
from wsapp.runtime.greenlets import Greenlets
from wsapp.runtime.heads import Heads
from wsapp.runtime.link import Links
from wsapp.settings import Settings

log = logging.getLogger(__name__)

WARM_EVERY: Final = 2.0  # seconds
ARRIVE: Final = "events do not arrive"


class Watch:
    """The watching of one worker over itself.  Each part is off when its interval is 0."""

    def __init__(self, settings: Settings, backend: Backend, delivery: Delivery, connections: ConnectionManager,
                 links: Links) -> None:
        self._settings, self._backend, self._delivery = settings, backend, delivery
        self._connections, self._links = connections, links
        self.heads = Heads(delivery)
        self.canary: Canary | None = None
        self.warm: Callable[[], object] | None = None  # a small question over the connection that publishes

    def start(self, boot: str, greenlets: Greenlets) -> None:
        """Begin, in the worker `boot`."""
        settings, backend = self._settings, self._backend
        if self.warm is not None and backend.shared:
            greenlets.run("publishing connection", self.keep_warm)
        if settings.heads_interval:
            greenlets.every("heads", settings.heads_interval, self.check_heads)
        if settings.beacon:
            greenlets.every("beacon", settings.beacon, self.send_beacon)
        if settings.canary and backend.shared:
            self._start_canary(boot, greenlets)

    def _start_canary(self, boot: str, greenlets: Greenlets) -> None:
        self.canary = Canary(boot, self._delivery, self._backend.broker, self._backend.reconnect, self._links.lost,
                             self._settings.canary)
        greenlets.run("canary", self.canary.run)

    def keep_warm(self) -> None:
        """Have the connection that publishes open before it is needed: opening it takes longer than a publish may."""
        while self.warm is not None:
            try:
                self.warm()
            except BrokerUnavailable as error:  # the publish that needs it will say so
                log.debug("no connection to publish by: %s", error)
            gevent.sleep(WARM_EVERY)

    def check_heads(self) -> None:
        """Look for lost last messages, unless Redis is away."""
        if self._links.state is LinkState.UP:
            try:
                self.heads.check()
            except BrokerUnavailable as error:
                self._links.lost(error)

    def send_beacon(self) -> None:
        """Tell sdk clients where their rooms stand, unless nobody knows: Redis is away."""
        if self._links.state is LinkState.UP:
            self.heads.beacon(self._connections.sessions())

    def trouble(self) -> str | None:
        """Why this worker does not deliver; None when it does."""
        if self._links.state is LinkState.CATCHING_UP:
            return "Redis was away: what was published meanwhile is being recorded"
        if self._links.state is LinkState.DOWN:
            return f"Redis is away: {self._links.reason}"
        return self._silence()

    def _silence(self) -> str | None:
        """Why nothing comes from a Redis that answers."""
        if self._backend.deaf is not None:
            return f"{ARRIVE}: {self._backend.deaf}"
        return ARRIVE if self.canary is not None and self.canary.failing else None

    def facts(self) -> dict[str, float]:
        """For the metrics; see `Canary.facts`."""
        return self.canary.facts() if self.canary is not None else {}
