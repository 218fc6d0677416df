"""`refresh-token`; with real tokens in tests/cluster/test_auth.py."""

from __future__ import annotations

from tests.blueprints.conftest import Place


def test_a_server_without_tokens_says_so(place: Place) -> None:
    told = place.client().ask("refresh-token", {"token": "x"})
    assert (told["ok"], told["error"]["code"]) == (False, "bad_request")


def test_a_wrong_payload(place: Place) -> None:
    for payload in (None, 7, {}, {"token": ""}, {"token": "x", "more": 1}):
        assert place.client().ask("refresh-token", payload)["error"]["code"] == "bad_payload"
