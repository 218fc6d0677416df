"""The documents as they are served."""

from __future__ import annotations

import pytest

from tests.blueprints.conftest import Place


@pytest.mark.parametrize("name", ["openapi", "asyncapi"])
def test_served_without_a_key_and_once(place: Place, name: str) -> None:
    http = place.app.test_client()
    reply = http.get(f"/api/v1/{name}.json")
    assert reply.status_code == 200
    assert reply.get_json()[name].startswith("3.")
    again = http.get(f"/api/v1/{name}.json", headers={"If-None-Match": reply.headers["ETag"]})
    assert again.status_code == 304
