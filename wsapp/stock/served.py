"""How a SocketServer is served without gunicorn: for development, and for small installations of one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Flask

from wsapp.stock.running import Runner, in_flask_command, read_options, take_over_flask_run
from wsapp.stock.socketio import HostSocketIO


class Served:
    """The part of a SocketServer that serves in this process."""

    _runner: Runner | None
    _dispatch: Any

    def __init__(self) -> None:
        super().__init__()
        self._runner = None
        self.socketio = HostSocketIO(
            self.run, self._stop, lambda sid, namespace: self._dispatch.session_changed(sid, namespace))

    def run(self, app: Flask | None = None, host: str | None = None, port: int | None = None, *,
            debug: bool | None = None, **options: Any) -> None:
        """Serve the application in this process, all transports included, until SIGTERM or Ctrl-C.  Main thread only.

        Without an address: WSAPP_BIND and WEBSOCKET_PORT where they are given, else 127.0.0.1:5000.  With `debug`
        (default: `app.debug`) Werkzeug's reloader and debugger are on.  Options: `use_reloader`, `use_debugger`,
        `reloader_options`, `extra_files`, `log_output`, `certfile`, `keyfile`.  An unpatched process is replaced by
        itself, patched for gevent from its beginning.  Raises RuntimeError where that cannot be, and TypeError for
        options that it does not have.
        """
        runner = self._runner
        if runner is None or (app is not None and app is not runner.app):
            raise RuntimeError("this SocketServer has another app, or none: call init_app(app) first")
        how = read_options(runner.app.debug if debug is None else debug, options)
        runner.run(replace(how, host=host, port=port))

    def _stop(self) -> None:
        if self._runner is None:
            raise RuntimeError("nothing is served by run() in this process")
        self._runner.stop()

    def _serve_with_flask(self, runner: Runner) -> None:
        """Take over `app.run()` and `flask run`."""
        self._runner = runner
        if in_flask_command():  # where Flask ignores app.run()
            take_over_flask_run(runner.app, runner)
        else:
            runner.app.run = self._run_app  # type: ignore[method-assign]

    def _run_app(self, host: str | None = None, port: int | None = None, debug: bool | None = None,
                 load_dotenv: bool = True, **options: Any) -> None:
        self.run(None, host, port, debug=debug, **options)
