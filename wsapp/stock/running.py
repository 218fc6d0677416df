"""One process that serves an application without gunicorn's master.

`socketio.run(app)`, `server.run()`, `app.run()` and `flask run` all come here; the reloader and the debugger are
Werkzeug's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import click
import flask.cli
import gevent
from click.core import ParameterSource
from flask import Flask
from flask.helpers import get_debug_flag
from werkzeug._reloader import run_with_reloader  # private; Flask-SocketIO takes it from there, too
from werkzeug.debug import DebuggedApplication
from werkzeug.serving import is_running_from_reloader

from wsapp.settings import Settings
from wsapp.stock.patching import is_patched, require_patched

HOST: Final = "127.0.0.1"  # the defaults of Flask and Flask-SocketIO
PORT: Final = 5000
# Options of Flask's and Flask-SocketIO's servers that mean nothing for ours.
MEANINGLESS: Final = frozenset({"allow_unsafe_werkzeug", "load_dotenv", "threaded", "processes", "passthrough_errors",
                                "use_evalex", "log", "spawn"})

# Options of the reloader, by their names in `run_simple`.
RELOADER: Final = {"extra_files": "extra_files", "exclude_patterns": "exclude_patterns",
                   "reloader_interval": "interval", "reloader_type": "reloader_type"}


@dataclass(frozen=True, slots=True)
class Run:
    """How to serve.  None: by the settings of wsapp where they are given, else as Flask does."""

    host: str | None = None
    port: int | None = None
    debug: bool = False
    use_reloader: bool | None = None
    use_debugger: bool | None = None
    log_output: bool | None = None
    certfile: str | None = None
    keyfile: str | None = None
    reloader: Mapping[str, Any] = field(default_factory=dict)

    def bind(self, app: Flask, settings: Settings) -> str:
        """`host:port` or `unix:/path`."""
        host = self.host or (settings.bind if "bind" in settings.sources else HOST)
        if host.startswith("unix:"):
            return host
        _, _, named = (app.config.get("SERVER_NAME") or "").partition(":")
        given = settings.websocket_port if "websocket_port" in settings.sources else int(named or PORT)
        return f"{f'[{host}]' if ':' in host else host}:{given if self.port is None else self.port}"


def read_options(debug: bool, options: Mapping[str, Any]) -> Run:
    """Read keyword arguments of `SocketIO.run`, `Flask.run` and Werkzeug's `run_simple`.  Raises TypeError for others.
    """
    given = {name: value for name, value in options.items() if name not in MEANINGLESS}
    reloader = {RELOADER[name]: given.pop(name) for name in RELOADER if name in given}
    reloader.update(given.pop("reloader_options", None) or {})
    certificate = given.pop("ssl_context", None)
    if isinstance(certificate, tuple):
        given["certfile"], given["keyfile"] = (*certificate, None)[:2]
    elif certificate is not None:
        raise TypeError("ssl_context is neither 'adhoc' nor an SSLContext here: give the files, (certfile, keyfile)")
    unknown = sorted(given.keys() - {"use_reloader", "use_debugger", "log_output", "certfile", "keyfile"})
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: not an option of wsapp's server (settings are given to SocketServer)")
    return Run(debug=debug, reloader=reloader, **given)


class Runner:
    """Serves `app`, whose settings are `settings`.  `middleware` is Flask-SocketIO's: the debugger is put behind it, so
    that it sees what becomes of the application's views and leaves the connections alone."""

    def __init__(self, app: Flask, settings: Settings, middleware: Any) -> None:
        self.app, self._settings, self._middleware = app, settings, middleware
        self._serving: Any = None

    def run(self, how: Run) -> None:
        """Serve until the process is told to stop.  With the reloader the process only starts others, which serve; an
        unpatched process is replaced by itself (`wsapp.stock.patching`).  Main thread only."""
        app = self.app
        if "gunicorn" in os.environ.get("SERVER_SOFTWARE", ""):
            raise RuntimeError("run() is called while gunicorn serves: put it behind if __name__ == '__main__'")
        app.debug = how.debug
        reload = how.debug if how.use_reloader is None else how.use_reloader
        if not reload:
            require_patched()
            self._serve(how)
            return
        if is_running_from_reloader():
            require_patched()
        main = gevent.getcurrent()
        options = {"reloader_type": "stat", **how.reloader}  # watchdog's threads would block the greenlets

        def serve() -> None:
            status = 1  # never 3, which means "start me again" to the process that waits for this one
            try:
                self._serve(how)
                status = 0
            finally:
                gevent.kill(main, SystemExit(status))  # it looks for changes
        run_with_reloader(serve, **options)

    def stop(self) -> None:
        """End `run`."""
        if self._serving is None:
            raise RuntimeError("nothing is served by run() in this process")
        self._serving.stop()

    def _serve(self, how: Run) -> None:
        debugger = how.debug if how.use_debugger is None else how.use_debugger
        if debugger:
            self._middleware.wsgi_app = DebuggedApplication(self._middleware.wsgi_app, evalex=True)
        settings = self._settings
        certificate = (how.certfile, how.keyfile) if how.certfile else (settings.tls_certificate, settings.tls_key)
        from wsapp.transport.alone import Alone  # gunicorn is needed only where something is served
        self._serving = Alone(self.app, how.bind(self.app, settings), certfile=certificate[0], keyfile=certificate[1],
                              access_log=how.debug if how.log_output is None else how.log_output)
        self._serving.run()


def in_flask_command() -> bool:
    """Whether this process is the `flask` command."""
    return os.environ.get("FLASK_RUN_FROM_CLI") == "true"


def take_over_flask_run(app: Flask, runner: Runner) -> None:
    """Have `flask run` serve `app` with `runner` instead of Werkzeug's server, which knows no WebSocket of ours.

    flask.cli looks its function `run_simple` up when it has loaded the application; that name is replaced.  A process
    that will serve is restarted now if it must be, before the rest of the application is loaded for nothing.
    """
    cli: Any = flask.cli
    theirs = cli.run_simple

    def run_simple(host: str, port: int, application: Any, **options: Any) -> None:
        if application is not app:
            theirs(host, port, application, **options)
            return
        how = read_options(get_debug_flag(), options)
        runner.run(replace(how, host=None if _is_default("host") else host, port=None if _is_default("port") else port))
    cli.run_simple = run_simple
    context = click.get_current_context(silent=True)
    if context is not None and context.info_name == "run" and not is_patched():
        reload = context.params.get("reload")
        if is_running_from_reloader() or not (get_debug_flag() if reload is None else reload):
            require_patched()


def _is_default(name: str) -> bool:
    """Whether an option of the command that runs was not given."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is ParameterSource.DEFAULT
