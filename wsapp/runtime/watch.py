"""What proves that events arrive, and finds those that did not: the canary, the heads of rooms, the beacon."""

from __future__ import annotations

from wsapp.core.connections import ConnectionManager
from wsapp.core.ports import Backend
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.canary import Canary
from wsapp.runtime.delivery import Delivery
from wsapp.runtime.greenlets import Greenlets
from wsapp.runtime.heads import Heads
from wsapp.runtime.outlet import Mode, Outlet
from wsapp.settings import Settings


class Watch:
    """The watching of one worker over itself.  Each part is off when its interval is 0."""

    def __init__(self, settings: Settings, backend: Backend, delivery: Delivery, connections: ConnectionManager,
                 outlet: Outlet) -> None:
        self._settings, self._backend, self._delivery = settings, backend, delivery
        self._connections, self._outlet = connections, outlet
        self.heads = Heads(delivery)
        self.canary: Canary | None = None

    def start(self, boot: str, greenlets: Greenlets) -> None:
        """Begin, in the worker `boot`."""
        settings, backend = self._settings, self._backend
        if settings.heads_interval:
            greenlets.every("heads", settings.heads_interval, self.check_heads)
        if settings.beacon:
            greenlets.every("beacon", settings.beacon, self.send_beacon)
        if settings.canary and backend.shared:
            self.canary = Canary(boot, self._delivery, backend.broker, backend.reconnect, self._outlet.lost,
                                 settings.canary)
            greenlets.run("canary", self.canary.run)

    def check_heads(self) -> None:
        """Look for lost last messages, unless Redis is away."""
        if self._outlet.mode is Mode.NORMAL:
            try:
                self.heads.check()
            except BrokerUnavailable as error:
                self._outlet.lost(error)

    def send_beacon(self) -> None:
        """Tell sdk clients where their rooms stand, unless nobody knows: Redis is away."""
        if self._outlet.mode is Mode.NORMAL:
            self.heads.beacon(self._connections.sessions())

    def trouble(self) -> str | None:
        """Why this worker does not deliver; None when it does."""
        if self._outlet.mode is not Mode.NORMAL:
            return "Redis is away"
        return "events do not arrive" if self.canary is not None and self.canary.failing else None

    def facts(self) -> dict[str, float]:
        """For the metrics; see `Canary.facts`."""
        return self.canary.facts() if self.canary is not None else {}
