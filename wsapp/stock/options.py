"""Flask-SocketIO's options as `SocketServer` takes them: passed on, renamed to a setting, or refused with the reason.

`ping_interval`, `ping_timeout`, `channel`, `transports` and `allow_upgrades` need no row: settings have these names and
the same units.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wsapp.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Passed:
    """Goes to Flask-SocketIO as it is."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """Is a setting of wsapp.  `read` turns the value into the setting's; it raises ValueError with the fix in it."""

    setting: str
    read: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, slots=True)
class Fixed:
    """Has one meaning here.  `values` say the same and are accepted; `why` says what to do instead."""

    values: tuple[object, ...]
    why: str


def _origins(value: Any) -> Any:
    if callable(value):
        raise ValueError("is a function: list the origins, or turn clients away in a connect handler")
    if value is not None and not value:
        raise ValueError("switches the check of origins off: give the origins, or '*' for any (without credentials)")
    return value


def _logger(value: Any) -> Any:
    """The engine logs to `wsapp.transport`; True shows all of it."""
    if value is True:
        logging.getLogger("wsapp.transport").setLevel(logging.DEBUG)
    elif value not in (None, False):
        raise ValueError("is a logger: the engine logs to logging.getLogger('wsapp.transport'); True shows all")
    return None


OPTIONS: Final[Mapping[str, Passed | Renamed | Fixed]] = {
    "manage_session": Passed(),
    "logger": Passed(),
    "async_handlers": Passed(),
    "always_connect": Passed(),
    "namespaces": Passed(),
    "message_queue": Renamed("redis_url"),
    "cors_allowed_origins": Renamed("websocket_cors_origin", _origins),
    "max_http_buffer_size": Renamed("wsapp_max_message"),
    "path": Renamed("wsapp_socket_path"),
    "resource": Renamed("wsapp_socket_path"),
    "engineio_logger": Renamed("wsapp_log_level", _logger),
    "async_mode": Fixed((None, "gevent"), "wsapp runs on gevent"),
    "cors_credentials": Fixed((True,), "WEBSOCKET_CORS_ORIGIN=* answers without credentials"),
    "cookie": Fixed((None,), "wsapp sets no cookie: every worker finds a session without one"),
    "http_compression": Fixed((True,), "long polling answers are compressed for clients that accept it; for WebSocket "
                                       "there is WSAPP_DEFLATE"),
    "compression_threshold": Fixed((1024,), "it is 1024 for long polling, WSAPP_DEFLATE_THRESHOLD for WebSocket"),
    "monitor_clients": Fixed((True, None), "silent clients are always closed (PING_INTERVAL, PING_TIMEOUT)"),
    "serializer": Fixed((None, "default"), "the wire is the default one of Socket.IO"),
    "json": Fixed((None,), "packets are strict JSON: emit values that the json module of Python can write"),
    "client_manager": Fixed((None,), "the message queue is REDIS_URL (message_queue)"),
}


def split_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments of `SocketServer` as `(settings, options for Flask-SocketIO)`.

    Names that are no options of Flask-SocketIO are taken for settings.  Raises SettingsError for an option that cannot
    be had, and for one that is given beside the setting it stands for.
    """
    settings: dict[str, Any] = {name: value for name, value in given.items() if name not in OPTIONS}
    passed: dict[str, Any] = {}
    for name, value in given.items():
        option = OPTIONS.get(name)
        if isinstance(option, Passed):
            passed[name] = value
        elif isinstance(option, Fixed) and not any(value is same or value == same for same in option.values):
            raise SettingsError(f"{name}={value!r} is not possible with wsapp: {option.why}")
        elif isinstance(option, Renamed):
            _rename(settings, name, value, option)
    return settings, passed


def _rename(settings: dict[str, Any], name: str, value: Any, option: Renamed) -> None:
    try:
        read = option.read(value)
    except ValueError as error:
        raise SettingsError(f"{name}={value!r} {error}") from None
    if read is None:
        return
    if settings.get(option.setting) is not None:
        raise SettingsError(f"{name} stands for {option.setting}, which is given too: leave one of them out")
    settings[option.setting] = read
