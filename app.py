"""The server on its own: `gunicorn -c gunicorn.conf.py app:app`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask

from config import chosen
from wsapp import SocketServer


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """A Flask app with nothing but wsapp in it, configured by `config/` for WSAPP_ENV.

    `config` holds settings by name (`MAX_CONNECTIONS`, `WSAPP_HISTORY_AGE`, ...) and wins over the environment.
    Raises SettingsError when one of them is unknown or wrong.
    """
    app = Flask(__name__)
    app.config.update(chosen(os.environ) | dict(config or {}))
    SocketServer(app)
    return app


app = create_app()
