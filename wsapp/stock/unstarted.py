"""Requests to an application whose SocketServer was not started: by a test client, or by somebody else's server."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

log = logging.getLogger(__name__)

FIX: Final = ("{server} serves this application, and wsapp does not run on it: start it with `socketio.run(app)`, "
              "`flask run`, `wsapp serve` or `gunicorn -c gunicorn.conf.py module:app`")


class StartedFirst:
    """A WSGI application whose `start` is called before the first request of a test client.

    Servers name themselves in SERVER_SOFTWARE; Flask's and Werkzeug's test clients do not.  A server that never called
    `start` gets an error for each request below `path`, and one line in the log; routes of the host work.
    """

    def __init__(self, application: Application, start: Callable[[], None], started: Callable[[], bool],
                 path: str) -> None:
        self._application, self._start, self._started, self._path = application, start, started, path
        self._looked = self._served = False

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        self._served = self._served or self._started()
        if not self._served:  # after a shutdown the last requests are answered as ever
            server = environ.get("SERVER_SOFTWARE")
            first, self._looked = not self._looked, True
            if first and server is None:
                self._start()
            elif first:
                log.error("%s", FIX.format(server=server))
            if server is not None and environ["PATH_INFO"].startswith(self._path):
                return _refuse(FIX.format(server=server), start_response)
        return self._application(environ, start_response)


def _refuse(told: str, start_response: Callable[..., Any]) -> list[bytes]:
    body = json.dumps({"code": 3, "message": told}).encode()  # Engine.IO's "bad request"
    start_response("500 Internal Server Error", [("Content-Type", "application/json"),
                                                 ("Content-Length", str(len(body)))])
    return [body]
