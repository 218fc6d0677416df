"""Whose word counts in a header that every proxy adds to."""

from __future__ import annotations

import pytest

from wsapp.core.forwarded import told_by


@pytest.mark.parametrize(("header", "proxies", "told"), [
    ("203.0.113.7", 0, None), ("", 1, None), (" , ", 2, None),
    ("203.0.113.7", 1, "203.0.113.7"), ("invented, 203.0.113.7", 1, "203.0.113.7"),
    ("invented,203.0.113.7 , 10.0.0.1", 2, "203.0.113.7"), ("203.0.113.7", 2, "203.0.113.7"), ("https", 2, "https")])
def test_the_outermost_trusted_one_counts(header: str, proxies: int, told: str | None) -> None:
    assert told_by(header, proxies) == told
