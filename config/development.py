"""On a developer's machine: talkative, reachable from itself, front-end servers on other ports allowed."""

import os

from config.default import Default


class Development(Default):
    DEBUG = True
    WSAPP_LOG_LEVEL = os.environ.get("WSAPP_LOG_LEVEL", "debug")
    WSAPP_BIND = os.environ.get("WSAPP_BIND", "127.0.0.1")
    WEBSOCKET_CORS_ORIGIN = os.environ.get(
        "WEBSOCKET_CORS_ORIGIN", "http://localhost:3001,http://localhost:3000,http://localhost:5173")
