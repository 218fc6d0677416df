"""What the server API stands on in one worker: its keys, the questions to all workers, and presence."""

from __future__ import annotations

from wsapp.core.api_keys import KeyTable
from wsapp.core.connections import ConnectionManager
from wsapp.core.ports import Backend
from wsapp.runtime.cluster_calls import ClusterCalls
from wsapp.runtime.operations import Operations
from wsapp.runtime.presence import TRACK, PresenceKeeper
from wsapp.settings import Settings


class ServerApi:
    """One per server."""

    def __init__(self, settings: Settings, backend: Backend, connections: ConnectionManager,
                 presence: PresenceKeeper) -> None:
        self.keys = KeyTable(settings.api_keys, backend.api_keys)
        self.presence = presence
        self.operations = Operations(connections)
        self.calls = presence.calls = ClusterCalls(
            backend.cluster, {**self.operations.verbs, TRACK: presence.answer_track})

    def start(self, boot: str) -> None:
        """Answer under this worker's name from now on."""
        self.calls.boot = self.presence.boot = boot

    def on_control(self, verb: str, argument: str) -> bool:
        """A control message; False when it is none of the API's."""
        return self.presence.on_control(verb, argument) or self.calls.on_control(verb, argument)
