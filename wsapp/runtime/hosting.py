"""What the host application decides: its hooks, its own users and rights, and who is thrown out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from wsapp.runtime.admission import HostHooks
from wsapp.runtime.hub import Hub

Hook = TypeVar("Hook", bound=Callable[..., object])


class Hosted:
    """The decorators of a SocketServer."""

    hub: Hub

    def __init__(self) -> None:
        super().__init__()
        self._hooks: dict[str, list[Callable[..., object]]] = {"connect": [], "subscribe": [], "disconnect": []}
        self._host = HostHooks()

    def on_connect(self, hook: Hook) -> Hook:
        """`hook(session, environ, auth)` after a client is admitted.  `ConnectionRefusedError` turns it away."""
        self._hooks["connect"].append(hook)
        return hook

    def on_subscribe(self, hook: Hook) -> Hook:
        """`hook(session, room)` before a client joins a room; False refuses it."""
        self._hooks["subscribe"].append(hook)
        return hook

    def on_disconnect(self, hook: Hook) -> Hook:
        """`hook(session)` after a client has gone."""
        self._hooks["disconnect"].append(hook)
        return hook

    def identify(self, hook: Hook) -> Hook:
        """`hook(auth, environ) -> user id, Identity or None` names the user instead of a token; the last one
        registered counts."""
        self._host.identify = hook  # type: ignore[assignment]
        return hook

    def authorizer(self, hook: Hook) -> Hook:
        """`hook(session, action, room) -> bool` decides what is allowed, instead of the token: `read`, `publish` or
        `presence`.  Asked again when a session is resumed or its token refreshed."""
        self._host.authorizer = hook  # type: ignore[assignment]
        return hook

    def revoke(self, *, jti: str | None = None, user: str | None = None, session: str | None = None,
               until: float | None = None) -> None:
        """Refuse a token id, a user's tokens issued so far, or a session (the token's `sid`, or wsapp's own), and close
        what is connected with it on every worker within a second.  `until` is in seconds since the epoch; without it
        WSAPP_REVOCATION_TTL holds.

        Raises ValueError unless exactly one is named, and BrokerUnavailable when only this worker knows of it.
        """
        self.hub.admission.revoke(jti=jti, user=user, session=session, until=until)

    def _identify(self, auth: Any, environ: dict[str, Any]) -> Any:
        return self._host.identify(auth, environ) if self._host.identify is not None else None
