"""Real-time agent thoughts, task updates and project events for browsers.

The names are loaded on first use: `from wsapp import Emitter` brings in neither gevent nor Flask.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "SocketServer": "wsapp.server",
    "ConnectionManager": "wsapp.core.connections",
    "EventThrottler": "wsapp.core.throttle",
    "EventBlueprint": "wsapp.runtime.event_blueprint",
    "Emitter": "wsapp.emitter",
    "PublishInterrupted": "wsapp.emitter",
    "Receipt": "wsapp.core.ports",
    "BrokerUnavailable": "wsapp.errors",
    "CloseCode": "wsapp.errors",
    "ErrorCode": "wsapp.errors",
    "PayloadError": "wsapp.errors",
    "RequestError": "wsapp.errors",
    "SettingsError": "wsapp.errors",
    "WsappError": "wsapp.errors",
}

__all__ = [
    "BrokerUnavailable", "CloseCode", "ConnectionManager", "Emitter", "ErrorCode", "EventBlueprint",
    "EventThrottler", "PayloadError", "PublishInterrupted", "Receipt", "RequestError", "SettingsError",
    "SocketServer", "WsappError", "__version__",
]

if TYPE_CHECKING:
    from wsapp.core.connections import ConnectionManager
    from wsapp.core.ports import Receipt
    from wsapp.core.throttle import EventThrottler
    from wsapp.emitter import Emitter, PublishInterrupted
    from wsapp.errors import (
        BrokerUnavailable,
        CloseCode,
        ErrorCode,
        PayloadError,
        RequestError,
        SettingsError,
        WsappError,
    )
    from wsapp.runtime.event_blueprint import EventBlueprint
    from wsapp.server import SocketServer


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsapp' has no attribute {name!r}")
    found = getattr(import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
