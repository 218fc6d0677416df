"""Questions to the owner of a slot that follow it: what was answered MOVED or ASK was not done, and is asked there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import hiredis

from wsapp.backends.redis_keys import RedisKeys
from wsapp.backends.redis_scripts import BY_SHA, Command
from wsapp.backends.redis_slots import Place, SlotAddress
from wsapp.backends.redis_wire import RedisPool, RedisWire, remaining
from wsapp.errors import BrokerUnavailable

_DOUBTFUL: Final = ("CLUSTERDOWN", "READONLY", "MASTERDOWN", "MOVED")


class SlotPool(RedisPool):
    """`RedisPool` for one partition in a cluster."""

    def __init__(self, address: SlotAddress, keys: RedisKeys, timeout: float, opening: float = 0.0) -> None:
        super().__init__(address, keys, timeout, opening)
        self._slot = address

    def _open(self, patience: float) -> RedisWire:
        """Once more where what was known of the slot is shown to be old."""
        try:
            return super()._open(patience)
        except hiredis.ReplyError as error:
            moved = _redirected("MOVED ", [error], "")
            if not moved:
                raise
            if moved[0][0]:
                self._slot.nodes.learn(self.keys.slot, moved[0])
            else:
                self._slot.doubt()
            return super()._open(patience)

    def _ask_forgotten(self, wire: RedisWire, commands: Sequence[Command], replies: list[Any]) -> None:
        super()._ask_forgotten(wire, commands, replies)
        host = wire.connection.host
        moved = _redirected("MOVED ", replies, host)
        if moved:
            self._follow(wire, moved, commands, replies)
        asked = _redirected("ASK ", replies, host)
        if asked:
            self._ask_importing(wire, asked, commands, replies)

    def _follow(self, wire: RedisWire, moved: dict[int, Place], commands: Sequence[Command],
                replies: list[Any]) -> None:
        """The slot has another owner for good: ask there what was refused here, in its order.  A second refusal is
        the caller's: everything is in motion."""
        self._slot.nodes.learn(self.keys.slot, next(iter(moved.values())))
        wire.shutdown()  # it is not kept: closed for reading, it is not idle
        self.moved()
        there = self._open(max(self._opening, remaining(wire.deadline)))
        try:
            some = [commands[number] for number in moved]
            again = there.ask(some, max(self._opening, 0.001))
            super()._ask_forgotten(there, some, again)
        finally:
            there.close()
        for number, reply in zip(moved, again, strict=True):
            replies[number] = reply

    def _ask_importing(self, wire: RedisWire, asked: dict[int, Place], commands: Sequence[Command],
                       replies: list[Any]) -> None:
        """The slot is being moved, and these keys are at its new node already (ASK): ask there, this time only.  No
        generation is begun: the node does not own the slot yet."""
        address = self._slot.nodes.at(next(iter(asked.values())))
        there = RedisWire(address.connect(remaining(wire.deadline)))
        try:
            question: list[Command] = [*address.greeting]
            for number in asked:
                question += (("ASKING",), _in_full(commands[number]))
            found = there.ask(question, max(self._opening, 0.001))[len(address.greeting):]
        finally:
            there.close()
        for number, reply in zip(asked, found[1::2], strict=True):
            replies[number] = reply

    def unavailable(self, error: Exception) -> BrokerUnavailable:
        """As of any pool; where the slot is, is asked anew."""
        if not isinstance(error, hiredis.ReplyError) or str(error).startswith(_DOUBTFUL):
            self._slot.nodes.doubt()
        return super().unavailable(error)


def _redirected(word: str, replies: Sequence[Any], same: str) -> dict[int, Place]:
    """Which commands are to be asked elsewhere, and where: `MOVED 3999 host:port`.  No host means the `same` one."""
    found: dict[int, Place] = {}
    for number, reply in enumerate(replies):
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(word):
            host, _, port = str(reply).split()[2].rpartition(":")
            found[number] = (host.strip("[]?") or same, int(port))
    return found


def _in_full(command: Command) -> Command:
    script = BY_SHA.get(str(command[1])) if command[0] == "EVALSHA" else None
    return command if script is None else script.in_full(command)
