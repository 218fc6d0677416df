"""The OpenAPI 3.1 document of the server API, made from what its calls say of themselves and the schemas that judge
them."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

from wsapp.blueprints.api import PARTS
from wsapp.blueprints.api.access import PATH, PROBLEM
from wsapp.blueprints.api.critical import EVENT_ID
from wsapp.blueprints.api.endpoints import Endpoint, Json
from wsapp.schemas import AgentThoughtSchema, AnyJson, TaskUpdateSchema

VERSION: Final = "1.0.0"
_KEYED: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"header": []}]
_REFUSALS: Final = ("400", "401", "403", "404", "405", "406", "413", "415", "422", "503")
_IN_PATH: Final[dict[str, Json]] = {
    "room": {"description": "`agent:<id>`, `task:<id>` or `project:<id>`; slashes may stand as they are",
             "schema": {"type": "string",
                        "pattern": "^(agent|task|project):[^\\s\\x00-\\x1f\\x7f-\\x9f/?#%*]{1,200}$"}},
    "id": {"description": "of a receipt", "schema": {"type": "string", "pattern": f"^{EVENT_ID}$"}}}


class ProblemSchema(Schema):
    """An error (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    code = fields.String(required=True)
    detail = fields.String(required=True)
    retryable = fields.Boolean(required=True)
    fields_ = fields.Dict(fields.String(), AnyJson(), data_key="fields")


def _schema_name(schema: Any) -> str:
    name: str = schema.__name__ if isinstance(schema, type) else type(schema).__name__
    return name.removesuffix("Schema").removesuffix("Answer")


def describe_field(_converter: Any, field: Any, **_: Any) -> Json:
    """The JSON Schema of a field that has its own (`json_schema`)."""
    own = getattr(field, "json_schema", None)
    if own is None:
        return {}
    described: Json = own()
    if field.allow_none and "type" in described:
        types = described["type"] if isinstance(described["type"], list) else [described["type"]]
        described["type"] = [*types, "null"]
    return described


def new_spec(title: str) -> tuple[APISpec, Any]:
    """An empty document, and the converter that fills its schemas."""
    plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
    spec = APISpec(title, VERSION, "3.1.0", plugins=[plugin])
    converter: Any = plugin.converter  # made by APISpec
    converter.add_attribute_function(describe_field)
    return spec, converter


def components(spec: APISpec, converter: Any) -> Json:
    """The schemas of a document, with what `described` of a schema says beside its fields."""
    made: Json = spec.to_dict()["components"]["schemas"]
    for (schema, *_), name in converter.refs.items():
        made[name] |= getattr(schema, "described", {})
    return made


@cache
def describe() -> Json:
    """The document."""
    spec, converter = new_spec("wsapp server API")
    spec.options["servers"] = [{"url": PATH}]
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme("header", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    spec.components.schema("AgentThought", schema=AgentThoughtSchema)
    spec.components.schema("TaskUpdate", schema=TaskUpdateSchema)
    spec.components.response("Problem", {"description": "refused", "content": {PROBLEM: {"schema": ProblemSchema}}})
    paths: dict[str, Json] = {}
    for endpoint in (one for part in PARTS for one in part.endpoints):
        paths.setdefault(endpoint.template, {})[endpoint.method.lower()] = _operation(endpoint, converter)
    for path, operations in paths.items():
        spec.path(path, operations=operations)
    document: Json = spec.to_dict()
    document["components"]["schemas"] = components(spec, converter)
    return document


def _operation(endpoint: Endpoint, converter: Any) -> Json:
    head, *words = endpoint.view.__name__.split("_")
    responses: Json = {str(status): _answer(one, endpoint.content) for status, one in endpoint.answers.items()}
    described: Json = {
        "operationId": head + "".join(map(str.capitalize, words)), "summary": endpoint.summary,
        "parameters": _parameters(endpoint), "security": _KEYED if endpoint.scopes else [],
        "responses": {str(endpoint.status): _answer(endpoint.answer, endpoint.content), **responses,
                      "default": "Problem"}}
    if endpoint.scopes:
        described["description"] = f"Needs the scope {' or '.join(endpoint.scopes)}."
    if endpoint.answer is not None:
        described["responses"] |= dict.fromkeys(_REFUSALS, "Problem")
    if endpoint.body is not None:
        body = endpoint.body
        schema = body if isinstance(body, Schema) else body.described(converter.resolve_nested_schema)
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _answer(answer: type[Schema] | str | None, content: str) -> Json:
    if isinstance(answer, str):
        return {"description": answer}
    empty = {"type": "string" if content.startswith("text/") else "object"}
    return {"description": "done", "content": {content: {"schema": empty if answer is None else answer}}}


def _parameters(endpoint: Endpoint) -> list[Json]:
    in_path = [name for name in _IN_PATH if f"{{{name}}}" in endpoint.template]
    parameters: list[Json] = [{"name": name, "in": "path", "required": True, **_IN_PATH[name]} for name in in_path]
    if endpoint.query is not None:
        parameters.append({"in": "query", "schema": endpoint.query})
    return [*parameters, *endpoint.parameters]
