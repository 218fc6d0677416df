"""The Lua operations, loaded once per connection and called by their SHA-1 (EVALSHA)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Argument = str | bytes | int
Command = tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file; `sha` is the name the server gives its text."""

    text: str
    sha: str

    def command(self, keys: list[str], arguments: list[Argument]) -> Command:
        """The EVALSHA that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def in_full(self, command: Command) -> Command:
        """The same call with the text (EVAL), for a server that has forgotten it."""
        return ("EVAL", self.text, *command[2:])


def _script(name: str) -> Script:
    text = (Path(__file__).parent / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


PUBLISH: Final = _script("publish")
HISTORY: Final = _script("history")
GENERATION: Final = _script("generation")
SESSION_SAVE: Final = _script("session_save")
SESSION_TAKE: Final = _script("session_take")
SESSION_DROP: Final = _script("session_drop")
REVOKE: Final = _script("revoke")
SCRIPTS: Final = (REVOKE, PUBLISH, HISTORY, GENERATION, SESSION_SAVE, SESSION_TAKE, SESSION_DROP)
BY_SHA: Final = {script.sha: script for script in SCRIPTS}
