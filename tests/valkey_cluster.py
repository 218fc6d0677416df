"""A real Valkey Cluster for tests: several servers on the loopback, made into one by the commands of the protocol.

    with ValkeyCluster(primaries=3, replicas=1) as cluster: ...      # the replica is the first primary's
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Self

from redis.connection import Connection

from tests.valkey import Valkey, free_port

SLOTS = 16384
WITHIN = 30.0
NODE_TIMEOUT = 1000  # ms until a node that does not answer is taken for dead


class ValkeyCluster:
    """`nodes[:primaries]` own the slots in equal ranges; `nodes[primaries:]` are replicas of the first ones."""

    def __init__(self, primaries: int = 3, replicas: int = 0, *options: str) -> None:
        self.primaries, self.replicas, self._options = primaries, replicas, options
        self.nodes: list[Valkey] = []

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:self.primaries])

    def __enter__(self) -> Self:
        try:
            for _ in range(self.primaries + self.replicas):
                self.nodes.append(Valkey(
                    "--cluster-enabled", "yes", "--cluster-port", str(free_port()),
                    "--cluster-node-timeout", str(NODE_TIMEOUT), "--cluster-require-full-coverage", "no",
                    "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
                    *self._options).start())
            self._meet()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End all nodes.  Idempotent."""
        for node in self.nodes:
            node.close()

    def ask(self, node: Valkey, *command: Any) -> Any:
        """One command to one node."""
        connection = Connection(port=node.port, socket_timeout=5.0, protocol=2, decode_responses=True)
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def _meet(self) -> None:
        cuts = [SLOTS * number // self.primaries for number in range(self.primaries + 1)]
        bus = {node.port: self.ask(node, "CONFIG", "GET", "cluster-port")[1] for node in self.nodes}
        for number, node in enumerate(self.nodes):
            self.ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < self.primaries:
                self.ask(node, "CLUSTER", "ADDSLOTSRANGE", cuts[number], cuts[number + 1] - 1)
        for node, other in itertools.combinations(self.nodes, 2):  # all with all: hearsay takes seconds
            self.ask(node, "CLUSTER", "MEET", "127.0.0.1", other.port, bus[other.port])
        ids = {self.ask(node, "CLUSTER", "MYID") for node in self.nodes}
        self.until(lambda: all(ids <= self._known(node) for node in self.nodes), "all know each other")
        for number, replica in enumerate(self.nodes[self.primaries:]):
            self.ask(replica, "CLUSTER", "REPLICATE", self.ask(self.nodes[number], "CLUSTER", "MYID"))
        self.until(lambda: all(self._complete(node) for node in self.nodes), "the cluster is complete")
        for replica in self.nodes[self.primaries:]:
            self.until(lambda node=replica: "master_link_status:up" in self.raw_info(node), "the replica follows")

    def raw_info(self, node: Valkey) -> str:
        """INFO replication as text."""
        return str(self.ask(node, "INFO", "replication"))

    def _known(self, node: Valkey) -> set[str]:
        return {line.split()[0] for line in self.ask(node, "CLUSTER", "NODES").splitlines()}

    def _complete(self, node: Valkey) -> bool:
        info = self._info(node)
        return info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(SLOTS)

    def _info(self, node: Valkey) -> dict[str, str]:
        return dict(line.split(":", 1) for line in self.ask(node, "CLUSTER", "INFO").split())

    def owner(self, slot: int, ask: Valkey | None = None) -> Valkey:
        """Who owns a slot, as a living node says."""
        for first, last, (_, port, *_), *_ in self.ask(ask or self.nodes[-1], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(slot)

    def move(self, slot: int, source: Valkey, target: Valkey) -> None:
        """Move a slot with its keys, as `valkey-cli --cluster reshard` does it."""
        ids = {node.port: self.ask(node, "CLUSTER", "MYID") for node in self.nodes}
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
        for node in (target, source, *(one for one in self.nodes if one not in (source, target))):
            if "role:master" in self.raw_info(node):
                self.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        # What a node said before may still be on its way; it would undo it where the new epoch is not known.
        self.until(lambda: all(self._agrees(node, slot, target, ids[target.port]) for node in self.nodes),
                   "all agree whose the slot is")

    def _agrees(self, node: Valkey, slot: int, target: Valkey, id: str) -> bool:
        return self._epoch(node, id) == self._epoch(target, id) and self.owner(slot, node) is target

    def _epoch(self, node: Valkey, id: str) -> str:
        """The config epoch of the node `id`, as another knows it."""
        return next(line.split()[6] for line in self.ask(node, "CLUSTER", "NODES").splitlines() if line.startswith(id))

    def until(self, condition: Any, what: str) -> None:
        """Wait for it."""
        deadline = time.monotonic() + WITHIN
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {WITHIN:g} s in vain: {what}")
            time.sleep(0.02)
