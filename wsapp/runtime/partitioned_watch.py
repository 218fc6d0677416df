"""`Watch` where rooms are divided over partitions: each has a canary of its own, and its heads are looked at while the
partition is there, whatever the others do."""

from __future__ import annotations

from wsapp.core.link import LinkState
from wsapp.core.partitions import room_in
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.canary import ROOM, Canary
from wsapp.runtime.greenlets import Greenlets
from wsapp.runtime.watch import ARRIVE, Watch


class PartitionedWatch(Watch):
    """The watching of one worker over itself, partition by partition."""

    canaries: tuple[Canary, ...] = ()

    def _start_canary(self, boot: str, greenlets: Greenlets) -> None:
        backend = self._backend
        self.canaries = tuple(
            Canary(room_in(ROOM + boot, number, len(backend.parts)).removeprefix(ROOM), self._delivery, backend.broker,
                   part.reconnect, self._links.lost, self._settings.canary)
            for number, part in enumerate(backend.parts))
        for number, canary in enumerate(self.canaries):
            greenlets.run(f"canary {number}", canary.run)

    def check_heads(self) -> None:
        """As `Watch.check_heads`, of the partitions that are there."""
        try:
            self.heads.check(self._links.is_up)
        except BrokerUnavailable as error:
            self._links.lost(error)

    def trouble(self) -> str | None:
        """As `Watch.trouble`: one partition is enough."""
        if self._links.state is not LinkState.UP:
            return f"Redis is away: {self._links.reason}"
        if self._backend.deaf is not None:
            return f"{ARRIVE}: {self._backend.deaf}"
        silent = [str(number) for number, canary in enumerate(self.canaries) if canary.failing]
        return f"{ARRIVE} (partition {', '.join(silent)})" if silent else None

    def facts(self) -> dict[str, float]:
        """As `Watch.facts`, the delay of the slowest canary."""
        if not self.canaries:
            return {}
        facts, seen = self.canaries[0].facts(), sum(canary.seen for canary in self.canaries[1:])
        return {"canaryDelay": max(canary.facts()["canaryDelay"] for canary in self.canaries),
                "messagesSent": facts["messagesSent"] - seen, "eventsDelivered": facts["eventsDelivered"] - seen}
