"""The live page and what it loads."""

from __future__ import annotations

import re

from tests.blueprints.conftest import Place


def test_the_page_and_everything_it_loads_is_there(place: Place) -> None:
    http = place.app.test_client()
    page = http.get("/")
    assert page.status_code == 200
    assert page.mimetype == "text/html"
    loaded = re.findall(r"""(?:src|href)=["'](live/[^"']+)""", page.text)
    assert loaded
    assert {http.get("/" + path).status_code for path in loaded} == {200}


def test_the_page_asks_no_other_host(place: Place) -> None:
    page = place.app.test_client().get("/").text
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)
