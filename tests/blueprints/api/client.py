"""The server API of a server in this process, with a key for everything."""

from __future__ import annotations

import time
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.blueprints.conftest import Place
from wsapp.core.api_keys import SCOPES, make_key


class ApiClient:
    """Calls with a key that has all scopes, or those that are given."""

    def __init__(self, place: Place, *scopes: str) -> None:
        key, self.secret = make_key("-".join(scopes) or "all", scopes or SCOPES, time.time())
        place.server.hub.backend.api_keys.add(key)
        place.server.api.keys._read_at = None  # a new key is noticed within a second: no test waits for it
        self._http: FlaskClient = place.app.test_client()

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.send("GET", path, **more)

    def post(self, path: str, body: object, **more: Any) -> TestResponse:
        return self.send("POST", path, json=body, **more)

    def send(self, method: str, path: str, **more: Any) -> TestResponse:
        headers = {"X-API-Key": self.secret, **more.pop("headers", {})}
        return self._http.open(f"/api/v1{path}", method=method, headers=headers, **more)
