"""The live connection of a partition in a cluster: its rooms have sharded channels, at the owner of their slot.

The stock channel and the control channels are plain ones, which every node of a cluster passes on to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsapp.backends.redis_errors import Explained
from wsapp.backends.redis_keys import RedisKeys
from wsapp.backends.redis_live import BATCH, RedisLive, read_by_thread
from wsapp.backends.redis_scripts import Command
from wsapp.backends.redis_slots import SlotAddress
from wsapp.backends.redis_wire import RedisWire
from wsapp.core.ports import Reading

_LEFT = "the slot of its rooms has another owner now"


class SlotLive(RedisLive):
    """`RedisLive` with SSUBSCRIBE.  It moves with its slot: a node that gives the slot away ends the subscriptions, and
    once a second the nodes are asked who owns it."""

    record_kind = b"smessage"

    def __init__(self, address: SlotAddress, keys: RedisKeys, channel: str, timeout: float,
                 reading: Reading = read_by_thread) -> None:
        super().__init__(address, keys, channel, timeout, reading)
        self._slot = address
        self._leaving: dict[bytes, int] = {}

    def _commands(self, verb: str, channels: Sequence[bytes]) -> list[Command]:
        plain = [channel for channel in channels if channel in self._others]
        rooms = [channel for channel in channels if channel not in self._others]
        if verb == "UNSUBSCRIBE":
            for channel in rooms:
                self._leaving[channel] = self._leaving.get(channel, 0) + 1
        commands = super()._commands(verb, plain)
        return commands + [("S" + verb, *rooms[i:i + BATCH]) for i in range(0, len(rooms), BATCH)]

    def _serve(self, wire: RedisWire, gap: bool) -> str:
        self._leaving.clear()
        return super()._serve(wire, gap)

    def _notice(self, message: Any) -> None:
        kind = message[0] if type(message) is list else None
        if kind == b"ssubscribe":
            self._confirm(message[1])
        elif kind == b"sunsubscribe":
            self._left(message[1])
        else:
            super()._notice(message)

    def _left(self, channel: bytes) -> None:
        """Asked for, or the node's own doing.  Raises Explained then."""
        with self._lock:
            left = self._leaving.get(channel, 0)
            if left > 1:
                self._leaving[channel] = left - 1
            else:
                self._leaving.pop(channel, None)
            unasked = left == 0 and channel in self._wanted
        if unasked:
            self._slot.doubt()
            raise Explained(_LEFT)
