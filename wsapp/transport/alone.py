"""Our worker without a gunicorn master: one process that serves one application until it is told to stop."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.sock import create_sockets

from wsapp.transport.worker import Worker


class _Loaded:
    """What a worker asks of gunicorn's application object."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self._application = application

    def wsgi(self) -> Callable[..., Any]:
        return self._application


class Alone:
    """Listens on `bind` (`host:port` or `unix:/path`) when it is made; `run` serves.  Requests are logged with
    `access_log`.  With a certificate the port speaks TLS.  Ends the process with status 1 when the address is in use.
    """

    def __init__(self, application: Callable[..., Any], bind: str, *, access_log: bool = False,
                 certfile: str | None = None, keyfile: str | None = None) -> None:
        config = Config()
        config.set("bind", bind)
        config.set("workers", 1)
        config.set("accesslog", "-" if access_log else None)
        config.set("certfile", certfile)
        config.set("keyfile", keyfile or certfile)
        log = Logger(config)
        Worker.setup()
        self._worker = Worker(1, os.getppid(), create_sockets(config, log), _Loaded(application), 0, config, log)

    def run(self) -> None:
        """Serve; returns after SIGTERM, SIGINT or `stop`, when clients have been told.  Main thread only."""
        try:
            self._worker.init_process()
        finally:
            self._worker.tmp.close()

    def stop(self) -> None:
        """End `run` from anywhere in the process."""
        self._worker.handle_quit(0, None)
