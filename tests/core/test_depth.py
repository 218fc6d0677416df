"""How deep JSON may be nested."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsapp.core.depth import MAX_DEPTH, too_deep

json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text('[]{}"\\a'),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\'), inner,
                                                                                    max_size=3), max_leaves=30)


def depth_of(value: Any) -> int:
    """What the fast way must agree with."""
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(json_values, st.integers(0, 8))
def test_it_is_the_depth_of_the_value(value: Any, limit: int) -> None:
    assert too_deep(json.dumps(value), limit) == (depth_of(value) > limit)


@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_the_limit(pair: str) -> None:
    opening = "[" if pair == "[]" else '{"a":'
    inner = pair
    for _ in range(MAX_DEPTH - 1):
        inner = opening + inner + pair[1]
    assert not too_deep(inner)
    assert too_deep(opening + inner + pair[1])


def test_brackets_in_strings_are_no_depth() -> None:
    assert not too_deep(json.dumps(["[{" * 1000, '\\"[' * 1000, "\\"]))


def test_a_wide_or_long_text_costs_little() -> None:
    chain = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    for text in ("[" + "[]," * 300_000 + "[]]", "[" * 500_000 + "]" * 500_000, '["' + "\\\\" * 500_000 + '"]',
                 "[" + ",".join([chain] * 7000) + "]", '"' + "[" * 1_000_000,
                 '"' + '\\"' * 500_000 + "[" * 100):
        begun = time.process_time()
        too_deep(text)
        assert time.process_time() - begun < 1.0, text[:20]
