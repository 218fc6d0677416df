"""Tables of the documentation that are made from the code.  `python -m tests.test_docs` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wsapp.metrics import metrics_table

DOCS = Path(__file__).parent.parent / "docs"
TABLES: dict[tuple[str, str], Callable[[], str]] = {("operations.md", "metrics"): metrics_table}


def marked(text: str, name: str) -> re.Match[str]:
    """What stands between the marks of a table."""
    found = re.search(rf"(?<=<!-- made from the code: {name} -->\n).*?(?=\n<!-- end -->)", text, re.DOTALL)
    assert found is not None, f"the marks of the table {name} are gone"
    return found


@pytest.mark.parametrize(("file", "name"), list(TABLES))
def test_tables_say_what_the_code_says(file: str, name: str) -> None:
    assert marked((DOCS / file).read_text(), name)[0] == TABLES[file, name](), (
        "write it anew: python -m tests.test_docs")


def write() -> None:
    """Put every table into its document."""
    for (file, name), table in TABLES.items():
        text = (DOCS / file).read_text()
        found = marked(text, name)
        (DOCS / file).write_text(text[:found.start()] + table() + text[found.end():])


if __name__ == "__main__":
    write()
