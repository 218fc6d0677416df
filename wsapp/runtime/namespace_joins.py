"""Who has joined namespaces of the host application, by connection and by user."""

from __future__ import annotations

from collections.abc import Iterable


class NamespaceJoins:
    """One worker's.  A join has the Socket.IO sid of its namespace; a connection, that of Engine.IO."""

    def __init__(self) -> None:
        self._joins: dict[str, tuple[str, str | None]] = {}  # connection, user
        self._of_connection: dict[str, list[str]] = {}
        self._of_user: dict[str, list[str]] = {}

    def add(self, sid: str, connection: str, user_id: str | None) -> None:
        """A connection has joined a namespace as a user; None for nobody in particular."""
        self._joins[sid] = connection, user_id
        self._of_connection.setdefault(connection, []).append(sid)
        if user_id is not None:
            self._of_user.setdefault(user_id, []).append(sid)

    def leave(self, sid: str) -> None:
        """A join has ended.  Idempotent."""
        connection, user_id = self._joins.pop(sid, ("", None))
        _take(self._of_connection, connection, sid)
        if user_id is not None:
            _take(self._of_user, user_id, sid)

    def of(self, connection: str) -> list[str]:
        """The joins of a connection."""
        return list(self._of_connection.get(connection, ()))

    def beside(self, user_id: str, connections: Iterable[str]) -> int:
        """How many connections a user has in namespaces, beside those."""
        joins = self._of_user.get(user_id)
        return len({self._joins[sid][0] for sid in joins}.difference(connections)) if joins else 0


def _take(index: dict[str, list[str]], key: str, sid: str) -> None:
    joins = index.get(key)
    if joins is not None:
        joins.remove(sid)
        if not joins:
            del index[key]
