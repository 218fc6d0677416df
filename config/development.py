"""On a developer's machine: front-end servers on other ports may connect (Vite, Next.js, Create React App)."""

from config.default import Default


class Development(Default):
    WEBSOCKET_CORS_ORIGIN = ("http://localhost:5173", "http://127.0.0.1:5173", "http://localhost:3000",
                             "http://127.0.0.1:3000")
