"""Every schema that judges what enters: taken by it as described, or refused with ValidationError; no number that is
taken is NaN, infinite or larger than JavaScript and Redis have.  And every setting likewise with SettingsError."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from marshmallow import Schema, ValidationError

from wsapp.blueprints.api import PARTS
from wsapp.blueprints.api.publish import PublishProject, PublishTask, PublishThought
from wsapp.blueprints.sessions import sessions
from wsapp.blueprints.subscriptions import subscriptions
from wsapp.core.events import strict_loads
from wsapp.errors import SettingsError
from wsapp.schemas import AgentThoughtSchema, PositionSchema, TaskUpdateSchema
from wsapp.settings import SPECS, load_settings

# What judges the bodies and queries of the server API, the requests of clients, and what publishers send.
ENDPOINTS = [endpoint for part in PARTS for endpoint in part.endpoints]
SCHEMAS: list[Schema] = [
    *(one for endpoint in ENDPOINTS for one in (endpoint.query, endpoint.body) if isinstance(one, Schema)),
    PublishThought(), PublishTask(), PublishProject(), AgentThoughtSchema(), TaskUpdateSchema(), PositionSchema(),
    *(event.schema for part in (subscriptions, sessions) for event in part.events.values() if event.schema is not None)]
NAMES = sorted(spec.env for spec in SPECS.values())
FILES = {"WSAPP_JWT_JWKS", "WSAPP_JWT_PUBLIC_KEY_FILE", "REDIS_URL", "WSAPP_EMBEDDED_URL"}
LARGEST = 2**63

VALUES = [b"0", b"true", b"0.4", b"-1", b"5e-324", b"18446744073709551616", b'"NaN"', b'"1e400"', b"1e400", b'"x"',
          b"[]", b"{}", b"null", b'"' + b"9" * 400 + b'"', b'["a"]', b'{"epoch":"e","seq":1}']
SEEDS = [bytes((number, kind)) + value for number in range(0, 256, 9) for kind in (0, 1) for value in VALUES] + [
    bytes((number, 2)) + b'{"id":"a","limit":1,"since":"5","user":"u","userId":"u","type":"agent-thought"}'
    for number in range(len(SCHEMAS))]


def check(data: bytes) -> None:
    if len(data) < 3:
        return
    number, kind = data[0], data[1] % 3
    try:
        value = strict_loads(data[2:])
    except ValueError:
        return
    if kind == 1:
        _setting(NAMES[number % len(NAMES)], value)
        return
    schema = SCHEMAS[number % len(SCHEMAS)]
    # The same value in every field; or an object as it is.
    given = value if kind == 2 else dict.fromkeys(schema.fields, value)
    try:
        taken = schema.load(given)
    except ValidationError:
        return
    for field, found in numbers(taken, schema):
        assert math.isfinite(found) and abs(found) <= LARGEST, (schema, field, found)


def numbers(taken: Any, schema: Schema) -> Iterator[tuple[str, float]]:
    """The numbers of a taken object that its schema names; what it does not name is the publisher's own."""
    for name, found in taken.items() if isinstance(taken, dict) else ():
        if name in schema.fields and isinstance(found, (int, float)) and not isinstance(found, bool):
            yield name, found


def _setting(name: str, value: Any) -> None:
    if name in FILES:
        return
    try:
        settings = load_settings({name: value if isinstance(value, str) else str(value)}, {})
    except SettingsError:
        return
    for field in SPECS:
        found = getattr(settings, field)
        assert not isinstance(found, float) or math.isfinite(found), field
