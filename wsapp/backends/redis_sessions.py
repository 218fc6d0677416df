"""Reconnect state in Redis: one hash per session, written only by its owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsapp.backends.records import milliseconds, split_owner
from wsapp.backends.redis_keys import Argument
from wsapp.backends.redis_scripts import SESSION_DROP, SESSION_SAVE, SESSION_TAKE, Command
from wsapp.backends.redis_wire import RedisPool
from wsapp.backends.window import Window
from wsapp.core.events import Position, strict_dumps, strict_loads
from wsapp.core.ports import Limits, SavedSession


class RedisSessions:
    """`SessionStore` over three fenced scripts.  Clients come and go in crowds: what they ask for at the same moment
    shares a pipeline."""

    def __init__(self, pool: RedisPool, limits: Limits) -> None:
        self._pool, self._ttl = pool, milliseconds(limits.session_ttl)
        self._window: Window[Command, Any] = Window(pool.ask, pool.longest)

    def _keys(self, session_id: str) -> list[str]:
        return [self._pool.keys.session(session_id), self._pool.keys.generation]

    def save(self, sessions: Sequence[SavedSession]) -> list[bool]:
        """As `SessionStore.save`."""
        return [reply == 1 for reply in self._window.ask([self._save(s) for s in sessions])] if sessions else []

    def _save(self, session: SavedSession) -> Command:
        split_owner(session.owner)
        return SESSION_SAVE.command(self._keys(session.session_id), [
            session.owner, session.user_id, strict_dumps({room: list(at) for room, at in session.positions.items()}),
            strict_dumps(dict(session.metadata)), self._ttl, _rest(session)])

    def take(self, session_id: str, owner: str, user_id: str | None = None) -> SavedSession | None:
        """As `SessionStore.take`; the time to live begins anew."""
        split_owner(owner)
        arguments: list[Argument] = [owner, self._pool.keys.control_channels, self._ttl]
        if user_id is not None:
            arguments.append(user_id)
        (reply,) = self._window.ask([SESSION_TAKE.command(self._keys(session_id), arguments)])
        if reply == 0:
            raise PermissionError("the session is another user's")
        return None if reply is None else _session(session_id, reply)

    def drop(self, session_id: str, owner: str) -> bool:
        """As `SessionStore.drop`."""
        (reply,) = self._pool.ask([SESSION_DROP.command([self._pool.keys.session(session_id)], [owner])])
        return bool(reply == 1)


def _rest(session: SavedSession) -> str:
    """What few sessions have."""
    rest = {"watching": session.watching, "host": session.host_state}
    return strict_dumps({name: value for name, value in rest.items() if value}) if any(rest.values()) else ""


def _session(session_id: str, state: list[Any]) -> SavedSession:
    """A position in a room that had no epoch yet is one before everything that this server's life has brought.  Another
    life may have begun since, and brought something that is gone: then it is given the name of its own."""
    owner, user, positions, metadata, rest, outdated = state
    more = strict_loads(rest) if rest else {}
    life = outdated.decode() if outdated else ""
    return SavedSession(session_id, user.decode(), owner.decode(),
                        {room: Position(epoch or life, seq) for room, (epoch, seq) in strict_loads(positions).items()},
                        strict_loads(metadata), tuple(more.get("watching", ())), tuple(more.get("host", ())))
