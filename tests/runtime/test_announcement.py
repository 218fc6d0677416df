"""What a server says of itself when it is up."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from wsapp.runtime.announcement import announce
from wsapp.settings import load_settings

SECRET = "0123456789abcdef0123456789abcdef"


def said(caplog: pytest.LogCaptureFixture, address: Any, identified: bool = False, page: str = "/",
         **settings: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        announce(load_settings({}, {"redis_url": "redis://h", **settings}), identified, page, [address], "http")
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("address", "url"), [
    (("127.0.0.1", 3001), "http://localhost:3001/live"), (("::1", 1, 0, 0), "http://localhost:1/live"),
    (("0.0.0.0", 80), "http://localhost:80/live"), (("203.0.113.7", 80), "http://203.0.113.7:80/live"),
    (("2001:db8::1", 80, 0, 0), "http://[2001:db8::1]:80/live")])
def test_where_the_page_is(caplog: pytest.LogCaptureFixture, address: Any, url: str) -> None:
    assert f"the page is at {url} " in said(caplog, address, page="/live")[0]


def test_what_the_memory_backend_means(caplog: pytest.LogCaptureFixture) -> None:
    assert "only this process can publish" in said(caplog, "/run/x.sock", redis_url=None)[0]


def test_a_unix_socket_has_no_url(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, "/run/x.sock") == []


def test_open_to_everybody_is_said_in_capitals_unless_somebody_has_decided(caplog: pytest.LogCaptureFixture) -> None:
    everywhere = ("0.0.0.0", 3001)
    assert "ANYBODY WHO REACHES 0.0.0.0:3001 MAY WATCH EVERYTHING" in said(caplog, everywhere)[1]
    for quiet in (said(caplog, ("127.0.0.1", 3001)), said(caplog, everywhere, auth="anonymous"),
                  said(caplog, everywhere, jwt_secret=SECRET), said(caplog, everywhere, identified=True)):
        assert len(quiet) == 1
