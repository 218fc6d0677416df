"""What the server API stands on in one worker: its keys, and the questions to all workers."""

from __future__ import annotations

from wsapp.core.api_keys import KeyTable
from wsapp.runtime.cluster_calls import ClusterCalls
from wsapp.runtime.hub import Hub
from wsapp.runtime.operations import Operations


class ServerApi:
    """One per server."""

    def __init__(self, hub: Hub) -> None:
        self.keys = KeyTable(hub.settings.api_keys, hub.backend.api_keys)
        self.operations = Operations(hub.connections)
        self.calls = ClusterCalls(hub.backend.cluster, self.operations.verbs)

    def start(self, boot: str) -> None:
        """Answer under this worker's name from now on."""
        self.calls.boot = boot

    def on_control(self, verb: str, argument: str) -> bool:
        """A control message; False when it is none of the API's."""
        return self.calls.on_control(verb, argument)
