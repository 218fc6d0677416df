"""How deep JSON may be nested: what one side writes, every other side must be able to read.

Parsers of other languages give up between 100 and 1000 levels, some without a word, and Python's own by how much of
its stack is left.  So every text that enters is judged by one limit, in C-speed steps: a client chooses the text.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from typing import Final

MAX_DEPTH: Final = 64  # arrays and objects within each other
TOO_DEEP: Final = f"must have at most {MAX_DEPTH} arrays and objects within each other"

# A string that does not end takes the rest: nothing is looked at twice.
_STRINGS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKET: Final = re.compile(r"[^\[\]{}]++")
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one deeper, one less deep


def too_deep(text: str, limit: int = MAX_DEPTH) -> bool:
    """Whether a text of JSON has more than `limit` arrays and objects within each other."""
    if text.count("[") + text.count("{") <= limit:
        return False
    brackets = _NO_BRACKET.sub("", _STRINGS.sub("", text))
    steps = array("b", brackets.encode("ascii").translate(_STEPS))
    return max(accumulate(steps), default=0) > limit
