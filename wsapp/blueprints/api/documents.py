"""`/api/v1/openapi.json` and `/api/v1/asyncapi.json`; no key is needed to read them."""

from __future__ import annotations

import hashlib
from typing import Any

from flask import Response, request

from wsapp.blueprints.api.access import answer, api_url, the_server
from wsapp.blueprints.api.endpoints import ApiBlueprint

api_documents = ApiBlueprint("documents", __name__)


@api_documents.serve("GET", "/openapi.json", None, answers={304: "nothing new"})
def openapi() -> Response:
    """OpenAPI 3.1 of the HTTP API."""
    # apispec is loaded when somebody asks: no worker needs it to serve.
    from wsapp.blueprints.api.openapi import describe
    return _document({**describe(), "servers": [{"url": api_url()}]})


@api_documents.serve("GET", "/asyncapi.json", None, answers={304: "nothing new"})
def asyncapi() -> Response:
    """AsyncAPI 3.0 of the socket events."""
    from wsapp.blueprints.api.asyncapi import describe
    return _document(describe(tuple(event for event in the_server().events.values() if event.schema is not None)))


def _document(document: dict[str, Any]) -> Response:
    response = answer(document)
    response.headers["Cache-Control"] = "public, max-age=300"
    response.set_etag(hashlib.blake2b(response.get_data(), digest_size=12).hexdigest(), weak=True)
    return response.make_conditional(request)  # type: ignore[return-value]  # it returns itself
