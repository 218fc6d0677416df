"""What the app of this repository is configured with, one class for each `WSAPP_ENV`.

The environment wins, so these hold only what belongs to a kind of deployment (`wsapp config` prints the environment's
side). The address to listen on is not among them, since gunicorn needs it before there is an app: unset, WSAPP_BIND is
this machine only, and all addresses with WSAPP_ENV=production.
"""

from collections.abc import Mapping
from typing import Any

from config.development import Development
from config.production import Production
from config.testing import Testing

CLASSES = {"development": Development, "testing": Testing, "production": Production}


def chosen(environ: Mapping[str, str]) -> dict[str, Any]:
    """The configuration for `WSAPP_ENV` (development when it is unset), without what the environment sets itself."""
    name = environ.get("WSAPP_ENV", "").strip().lower() or "development"
    found = CLASSES.get(name)  # of a wrong name SocketServer tells the right ones
    return {key: getattr(found, key) for key in dir(found) if key.isupper() and not environ.get(key, "").strip()}
