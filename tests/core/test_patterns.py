"""Patterns of room names."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsapp.core.patterns import matches


@pytest.mark.parametrize(("pattern", "name", "fits"), [
    ("agent:*", "agent:a", True), ("agent:*", "agent:", True), ("agent:*", "task:a", False), ("*", "", True),
    ("task:7", "task:7", True), ("task:7", "task:77", False), ("agent:*:logs", "agent:a:b:logs", True),
    ("agent:*:logs", "agent::log", False), ("a*a", "a", False), ("*a*b*", "xaxbx", True), ("*ab*ab*", "xaby", False),
    # No other wildcard: these are characters of ids.
    ("agent:[ab]", "agent:a", False), ("agent:[ab]", "agent:[ab]", True), ("agent:?", "agent:a", False),
    ("agent:[!a]*", "agent:b", False)])
def test_only_the_star_is_a_wildcard(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_as_the_regular_expression(pattern: str, name: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert matches(pattern, name) == bool(re.fullmatch(expression, name, re.DOTALL))


def test_a_malicious_pattern_costs_no_time() -> None:
    begun = time.process_time()
    assert not matches("a*" * 110 + "b", "a" * 220)
    assert not matches("*a" * 110 + "*b", "a" * 219)
    assert time.process_time() - begun < 0.1
