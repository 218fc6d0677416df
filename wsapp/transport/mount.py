"""Below which path of the public URL the application is served: SCRIPT_NAME of WSGI (PEP 3333).

A proxy that serves the application at /app and passes the rest of the path on says so in X-Forwarded-Prefix; one that
passes the whole path on needs SCRIPT_NAME=/app in the environment of the server, as with gunicorn's own workers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from wsapp.core.forwarded import told_by

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

PREFIX: Final = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,16}")


class Mounted:
    """A WSGI application below a path.  `script_name` is removed from the path of each request that begins with it;
    X-Forwarded-Prefix counts when `proxies` trusted ones are in front."""

    def __init__(self, application: Application, script_name: str, proxies: int) -> None:
        self._application, self._script_name, self._proxies = application, script_name.rstrip("/"), proxies

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        told = told_by(environ.get("HTTP_X_FORWARDED_PREFIX", ""), self._proxies) if self._proxies else None
        if told is not None and PREFIX.fullmatch(told.rstrip("/")):
            environ["SCRIPT_NAME"] = told.rstrip("/")
        elif self._script_name and (environ["PATH_INFO"] + "/").startswith(self._script_name + "/"):
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + self._script_name
            environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(self._script_name)
        return self._application(environ, start_response)
