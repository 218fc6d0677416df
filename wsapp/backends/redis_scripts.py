"""The Lua operations, loaded once per connection and called by their SHA-1 (EVALSHA)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsapp.backends.redis_keys import Argument

Command = tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file; `sha` is the name the server gives its text."""

    text: str
    sha: str

    def command(self, keys: Sequence[Argument], arguments: list[Argument]) -> Command:
        """The EVALSHA that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def in_full(self, command: Command) -> Command:
        """The same call with the text (EVAL), for a server that has forgotten it."""
        return ("EVAL", self.text, *command[2:])


def _named(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _script(name: str) -> Script:
    return _named((Path(__file__).parent / "lua" / f"{name}.lua").read_text(encoding="utf-8"))


PUBLISH: Final = _script("publish")
HISTORY: Final = _script("history")
GENERATION: Final = _script("generation")
SESSION_SAVE: Final = _script("session_save")
SESSION_TAKE: Final = _script("session_take")
SESSION_DROP: Final = _script("session_drop")
REVOKE: Final = _script("revoke")
CRITICAL_KEEP: Final = _script("critical_keep")
CRITICAL_DUE: Final = _script("critical_due")
CRITICAL_CLAIM: Final = _script("critical_claim")
CRITICAL_SEND: Final = _script("critical_send")
CRITICAL_RETRY: Final = _script("critical_retry")
CRITICAL_ACK: Final = _script("critical_ack")
CRITICAL_REQUEUE: Final = _script("critical_requeue")
PRESENCE_SYNC: Final = _script("presence_sync")
PRESENCE_UPDATE: Final = _script("presence_update")
PRESENCE_MEMBERS: Final = _script("presence_members")
PRESENCE_WATCHERS: Final = _script("presence_watchers")
SCRIPTS: Final = (PRESENCE_SYNC, PRESENCE_UPDATE, PRESENCE_MEMBERS, PRESENCE_WATCHERS,
                  REVOKE, PUBLISH, HISTORY, GENERATION, SESSION_SAVE, SESSION_TAKE, SESSION_DROP, CRITICAL_KEEP,
                  CRITICAL_DUE, CRITICAL_CLAIM, CRITICAL_SEND, CRITICAL_RETRY, CRITICAL_ACK, CRITICAL_REQUEUE)
BY_SHA: Final = {script.sha: script for script in SCRIPTS}
_ALONE: Final = "local PARTITIONS, SEND = 1, 'PUBLISH'"


def publish_in(partitions: int, sharded: bool) -> Script:
    """publish.lua for one of several partitions, or for sharded channels."""
    if partitions == 1 and not sharded:
        return PUBLISH
    line = f"local PARTITIONS, SEND = {partitions}, '{'SPUBLISH' if sharded else 'PUBLISH'}'"
    script = _named(PUBLISH.text.replace(_ALONE, line, 1))
    return BY_SHA.setdefault(script.sha, script)


def scripts_in(partitions: int, sharded: bool) -> tuple[Script, ...]:
    """What a connection for one of several partitions loads."""
    publish = publish_in(partitions, sharded)
    return tuple(publish if script is PUBLISH else script for script in SCRIPTS)
