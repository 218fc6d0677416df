"""What gunicorn's master does before it has workers and after they are gone.

The functions named like gunicorn's server hooks are made to be imported into any gunicorn configuration:

    from wsapp.launch import on_exit, on_reload, on_starting, ssl_context, when_ready

The master checks the settings, so that a wrong one stops the boot once, in one line, instead of once per worker in a
traceback.  With REDIS_URL unset it owns the private Valkey that all workers share: started before the first fork,
stopped after the last worker, its address handed down in WSAPP_EMBEDDED_URL.
"""

from __future__ import annotations

import os
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from wsapp.backends.embedded import Embedded, EmbeddedUnavailable, publish_location, start_embedded
from wsapp.certificates import server_context, trouble_with
from wsapp.errors import SettingsError
from wsapp.settings import Settings, load_settings, require_decision

EMBEDDED_URL = "WSAPP_EMBEDDED_URL"
WATCH_EVERY = 1.0  # seconds between looks at the private Valkey
MOST_WORKERS = 256


@dataclass(slots=True)
class _Owned:
    """What this master has started."""

    embedded: Embedded | None = None
    leaving: threading.Event = field(default_factory=threading.Event)
    one_worker: bool = False
    tls: ssl.SSLContext | None = None


_owned = _Owned()


def _stop_boot(message: str) -> NoReturn:
    print(f"wsapp: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def boot_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of the environment.  A wrong or unknown one is told on stderr in one line and ends the process
    with status 1."""
    try:
        return load_settings(os.environ if environ is None else environ)
    except SettingsError as error:
        _stop_boot(str(error))


def _require_keys(settings: Settings) -> None:
    """A production server was told whom to let in, and its keys are of use.  Where `WSAPP_AUTH=jwt` stands alone the
    keys are the application's, which says so itself when it has none."""
    try:
        require_decision(settings)
    except SettingsError as error:
        _stop_boot(str(error))


def _load_certificate(arbiter: Any, settings: Settings) -> None:
    _owned.tls = server_context(settings)
    trouble = trouble_with(settings)
    if trouble is not None:
        arbiter.log.warning("wsapp: %s", trouble)


def ssl_context(_config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """gunicorn hook: the context that the master made of WSAPP_TLS_CERTIFICATE, or gunicorn's own where another
    configuration names other files."""
    return _owned.tls or default()


def worker_count(environ: Mapping[str, str] | None = None) -> int:
    """WEB_CONCURRENCY (default 1), or 1 where the memory backend serves.  Ends the process like `boot_settings` when
    it is not a whole number from 1 to 256.  gunicorn itself reads the variable before any configuration, and ends in a
    traceback when it is no number: `wsapp serve` looks first."""
    given = (os.environ if environ is None else environ).get("WEB_CONCURRENCY", "").strip() or "1"
    if not (given.isascii() and given.isdecimal() and len(given) < 10 and 1 <= int(given) <= MOST_WORKERS):
        _stop_boot(f"WEB_CONCURRENCY={given!r} is not a whole number from 1 to {MOST_WORKERS}")
    return 1 if _owned.one_worker else int(given)


def bind_address(settings: Settings) -> str:
    """`host:port` as gunicorn wants it, an IPv6 host in brackets; or `unix:/path`."""
    if settings.bind.startswith("unix:"):
        return settings.bind
    host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
    return f"{host}:{settings.websocket_port}"


def on_starting(arbiter: Any) -> None:
    """gunicorn hook: check the settings and, with REDIS_URL unset, start the private Valkey or settle for memory."""
    settings = boot_settings()
    _require_keys(settings)
    try:
        _load_certificate(arbiter, settings)
    except SettingsError as error:
        _stop_boot(str(error))
    if settings.redis_url is not None:
        arbiter.log.info("wsapp: broker %s", "is the private Valkey of the master before this one"
                         if settings.sources["redis_url"] == "embedded" else "is REDIS_URL")
        return
    try:
        _owned.embedded = start_embedded()
    except EmbeddedUnavailable as error:
        _use_memory(arbiter, error)
        return
    os.environ[EMBEDDED_URL] = _owned.embedded.url
    arbiter.log.info("wsapp: REDIS_URL is unset: started a private Valkey on port %s, shared by all workers; "
                     "it ends with this server and so does its history", _owned.embedded.port)
    threading.Thread(target=_watch, args=(arbiter, _owned.embedded), name="private Valkey", daemon=True).start()


def _watch(arbiter: Any, embedded: Embedded) -> None:
    """What is started is watched: a private Valkey that was killed is started again, with nothing in it.  A thread of
    the master, which ends with it; on Linux the server would end with this thread."""
    while not _owned.leaving.wait(WATCH_EVERY):
        try:
            if embedded.restart_if_gone():
                arbiter.log.error("wsapp: the private Valkey had ended: started again on port %s; its history is gone",
                                  embedded.port)
        except EmbeddedUnavailable as error:
            arbiter.log.error("wsapp: the private Valkey has ended and does not start again: %s", error)


def _use_memory(arbiter: Any, why: Exception) -> None:
    arbiter.log.warning("wsapp: REDIS_URL is unset and there is no private Valkey here (%s): using the memory backend "
                        "with one worker; other processes cannot publish to it", why)
    _owned.one_worker = True
    _allow_one_worker(arbiter)


def _allow_one_worker(arbiter: Any) -> None:
    if _owned.one_worker:
        arbiter.cfg.set("workers", 1)
        arbiter.num_workers = 1


def on_reload(arbiter: Any) -> None:
    """gunicorn hook: a renewed certificate is read, a wrong one refused while the last one goes on.  And a reload has
    read the number of workers again; the memory backend allows one."""
    try:
        _load_certificate(arbiter, boot_settings())
    except SettingsError as error:
        arbiter.log.error("wsapp: the certificate from before the reload stays in use: %s", error)
    _allow_one_worker(arbiter)


def when_ready(arbiter: Any) -> None:
    """gunicorn hook: the port is ours; let `wsapp run` find the private Valkey by it."""
    addresses = [listener.sock.getsockname() for listener in arbiter.LISTENERS]
    for address in addresses:
        if isinstance(address, tuple):
            _publish(arbiter, address[1])
        else:
            arbiter.log.info("wsapp: listening on the Unix socket %s, for a proxy on this machine", address)


def _publish(arbiter: Any, port: int) -> None:
    if _owned.embedded is None:
        return
    try:
        publish_location(port, _owned.embedded.url)
    except (EmbeddedUnavailable, OSError) as error:
        arbiter.log.warning("wsapp: `wsapp run` and other publishers will not find the private Valkey: %s", error)


def on_exit(arbiter: Any) -> None:
    """gunicorn hook: the workers are gone; stop what the master started."""
    if _owned.embedded is None:
        return
    arbiter.log.info("wsapp: stopping the private Valkey")
    _owned.leaving.set()
    _owned.embedded.stop()
    _owned.embedded = None
    os.environ.pop(EMBEDDED_URL, None)
