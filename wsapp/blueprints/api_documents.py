"""`/api/v1/openapi.json` and `/api/v1/asyncapi.json`; no key is needed to read them."""

from __future__ import annotations

import hashlib
from typing import Any

from flask import Blueprint, Response, request

from wsapp.blueprints.api_access import answer, api_url, the_server

api_documents = Blueprint("documents", __name__)


@api_documents.get("/openapi.json")
def openapi_document() -> Response:
    """OpenAPI 3.1 of the HTTP API."""
    # apispec is loaded when somebody asks: no worker needs it to serve.
    from wsapp.blueprints.api_openapi import openapi
    return _document({**openapi(), "servers": [{"url": api_url()}]})


@api_documents.get("/asyncapi.json")
def asyncapi_document() -> Response:
    """AsyncAPI 3.0 of the socket events."""
    from wsapp.blueprints.api_asyncapi import asyncapi
    return _document(asyncapi(tuple(event for event in the_server().events.values() if event.schema is not None)))


def _document(told: dict[str, Any]) -> Response:
    response = answer(told)
    response.headers["Cache-Control"] = "public, max-age=300"
    response.set_etag(hashlib.blake2b(response.get_data(), digest_size=12).hexdigest(), weak=True)
    return response.make_conditional(request)  # type: ignore[return-value]  # it returns itself
