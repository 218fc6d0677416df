"""Tables of the documentation that are made from the code.  `python -m tests.test_docs` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from marshmallow import INCLUDE, Schema

from wsapp.blueprints.api import PARTS
from wsapp.blueprints.sessions import sessions
from wsapp.blueprints.subscriptions import subscriptions
from wsapp.metrics import metrics_table
from wsapp.runtime.event_blueprint import MAX_LIST, Event

DOCS = Path(__file__).parent.parent / "docs"


def requests_table() -> str:
    """What clients send and get, by the schemas beside the handlers; events with one handler share a row."""
    groups: dict[object, list[Event]] = {}
    for event in (*subscriptions.events.values(), *sessions.events.values()):
        groups.setdefault(event.handler, []).append(event)
    rows = ["| event | payload | answer beside `ok` | |", "|---|---|---|---|"]
    for events in groups.values():
        schema, answer = events[0].schema, events[0].answer
        assert schema is not None and answer is not None
        payload = f"`{fields_of(schema)}`" if schema.fields else "an object" if schema.unknown == INCLUDE else "none"
        bare = f'`"{schema.bare}"` or ' if schema.bare else ""
        lists = f"; or a list of 1 to {MAX_LIST} of these" if events[0].lists else ""
        what = f"{sentence(schema)} {sentence(answer())}"
        rows.append(f"| {' '.join(f'`{event.name}`' for event in events)} | {bare}{payload}{lists} "
                    f"| `{fields_of(answer())}` | {what} |")
    return "\n".join(rows)


def calls_table() -> str:
    """The calls of the server API, by what each says of itself at its view."""
    rows = ["| call | scope | |", "|---|---|---|"]
    for endpoint in (one for part in PARTS for one in part.endpoints):
        query = "?" + "&".join(f"{name}=" for name in endpoint.query.fields) if endpoint.query else ""
        body = f" `{fields_of(endpoint.body)}`." if isinstance(endpoint.body, Schema) else ""
        rows.append(f"| `{endpoint.method} {endpoint.template}{query}` | {', '.join(endpoint.scopes) or 'none'} "
                    f"| {endpoint.summary}{body} |")
    return "\n".join(rows)


def fields_of(schema: Schema) -> str:
    """`{room, since?}`."""
    return "{" + ", ".join(f"{name}{'' if field.required else '?'}" for name, field in schema.fields.items()) + "}"


def sentence(schema: Schema) -> str:
    """The docstring of a schema in one line."""
    return " ".join((schema.__doc__ or "").split())


TABLES: dict[tuple[str, str], Callable[[], str]] = {("operations.md", "metrics"): metrics_table,
                                                    ("protocol.md", "requests"): requests_table,
                                                    ("http-api.md", "calls"): calls_table}


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
