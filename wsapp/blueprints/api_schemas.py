"""Bodies, queries and answers of the server API.  What comes in is judged by these; what goes out is described by
them, in the OpenAPI document, and held to it by tests."""

from __future__ import annotations

import re
from typing import Any, Final

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from wsapp.emitter_limits import MAX_BATCH
from wsapp.schemas import KINDS, MAX_ID, MAX_MS

MAX_PAGE: Final = 1000
_DIGITS: Final = re.compile(r"[0-9]{1,16}")


class WholeNumber(fields.Integer):
    """Decimal digits in a query."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> Any:
        if not isinstance(value, str) or not _DIGITS.fullmatch(value):
            raise ValidationError("must be a whole number")
        return int(value)


class Strict(Schema):
    """Unknown fields are refused."""

    class Meta:
        unknown = RAISE


def _limit(most: int = MAX_PAGE) -> WholeNumber:
    return WholeNumber(validate=validate.Range(1, most), load_default=100, metadata={"description": "page size"})


def _seq(text: str) -> WholeNumber:
    return WholeNumber(validate=validate.Range(0, MAX_MS), metadata={"description": text})


def _name(text: str, **more: Any) -> fields.String:
    return fields.String(validate=validate.Length(1, MAX_ID), metadata={"description": text}, **more)
