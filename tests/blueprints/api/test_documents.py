"""The documents as they are served."""

from __future__ import annotations

import pytest

from tests.blueprints.conftest import Place
from wsapp.blueprints.sessions import AcknowledgedAnswer, EventRequest
from wsapp.runtime.event_blueprint import EventBlueprint


@pytest.mark.parametrize("name", ["openapi", "asyncapi"])
def test_served_without_a_key_and_once(place: Place, name: str) -> None:
    http = place.app.test_client()
    reply = http.get(f"/api/v1/{name}.json")
    assert reply.status_code == 200
    assert reply.get_json()[name].startswith("3.")
    again = http.get(f"/api/v1/{name}.json", headers={"If-None-Match": reply.headers["ETag"]})
    assert again.status_code == 304


def test_an_event_of_the_host_application_is_described_too(place: Place) -> None:
    feature = EventBlueprint("feature", __name__)
    feature.event("vote", EventRequest(), AcknowledgedAnswer)(lambda _call, id: {"id": id})
    place.server.register_blueprint(feature)
    assert place.client().ask("vote", "x") == {"ok": True, "id": "x"}
    document = place.app.test_client().get("/api/v1/asyncapi.json").get_json()
    assert document["operations"]["vote"]["action"] == "receive"
    assert document["components"]["messages"]["vote-ack"]["payload"]["oneOf"][0]["required"] == ["ok", "id"]
