"""Draining over HTTP, on the memory backend."""

from __future__ import annotations

import jsonschema
import pytest

from tests.blueprints.api.client import ApiClient
from tests.blueprints.conftest import Place
from tests.runtime.world import eventually
from wsapp.blueprints.api.openapi import describe as openapi


def test_a_server_is_drained_and_taken_back(place: Place) -> None:
    api = ApiClient(place, "drain")
    client = place.client()
    reply = api.post("/drain", {})
    assert reply.status_code == 202
    [told] = reply.get_json()["workers"]
    assert (told["worker"], told["state"], told["told"]) == (place.server.token, "draining", 1)
    assert client.until('42["server-shutdown"')
    eventually(lambda: api.get("/drain").get_json()["workers"][0]["state"] == "drained")
    document = openapi()
    jsonschema.validate(api.get("/drain").get_json(), {
        **document["components"]["schemas"]["WorkersService"], "components": document["components"]})
    assert api.post("/drain", {"undo": True, "workers": [place.server.token]}).get_json()["workers"][0]["clients"] == 0
    assert place.app.test_client().get("/readyz").status_code == 200


@pytest.mark.parametrize(("body", "status"), [
    ({"workers": ["nobody"]}, 404), ({"workers": []}, 422), ({"workers": ["a"], "everywhere": True}, 422),
    ({"over": -1}, 422), ({"undo": "yes"}, 422), ({"soon": True}, 422), ([], 422)])
def test_what_cannot_be_done_is_refused(place: Place, body: object, status: int) -> None:
    assert ApiClient(place).post("/drain", body).status_code == status
    assert place.server.not_ready() is None


def test_it_needs_a_scope_of_its_own(place: Place) -> None:
    for scopes, read, write in (("admin", 200, 403), ("publish", 403, 403), ("drain", 200, 202)):
        api = ApiClient(place, scopes)
        assert (api.get("/drain").status_code, api.post("/drain", {"undo": True}).status_code) == (read, write)
