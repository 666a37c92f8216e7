"""``/openapi.json``: the definitions that serve, written as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from dragoman.adapters.http.definitions import JSON, Definition, Parameter, Reply
from dragoman.adapters.http.documents import MessageDocument
from dragoman.adapters.serving.problems import PROBLEM_TYPE, Problem

Object = dict[str, object]

ALWAYS: Final = {
    400: "The request does not fit: the detail says what and what was allowed",
    403: "The gate, or a foreign Host or Origin",
    413: "The body is too large",
    415: "The body is encoded in a way that is not taken",
    429: "Too many or too fast; Retry-After says when to come back",
    500: "A fault of ours",
    503: "Not now",
}
"""What every route may answer."""

_MORE: Final = {
    401: "Credentials are missing or wrong",
    404: "There is no such thing, or none you may see",
    409: "It is in another state than this needs",
    410: "It was, and is no more",
    501: "Not supported here",
    502: "The agent that was asked failed",
    504: "It took too long",
    507: "The log cannot take it",
}
_REF: Final = "#/components/schemas/{name}"


def describe(definitions: Sequence[Definition], version: str) -> Object:
    """The document for these definitions."""
    kinds: list[type] = [Problem, MessageDocument]
    for definition in definitions:
        kinds += [reply.document for reply in definition.replies if reply.document is not None]
        kinds += [definition.body] if definition.body is not None else []
    unique = list(dict.fromkeys(kinds))
    references, components = msgspec.json.schema_components(unique, schema_hook=_free, ref_template=_REF)
    schemas = dict(zip(unique, references, strict=True))
    paths: dict[str, Object] = {}
    for definition in definitions:
        paths.setdefault(definition.path, {})[definition.method.lower()] = _operation(definition, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dragoman",
            "version": version,
            "summary": "Programs that share no protocol meet in one mesh of channels",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{"token": []}, {"password": []}, {}],
    }


def _free(kind: type) -> Object:
    """The schema of what may be any JSON."""
    assert kind is object, f"no schema for {kind!r}"
    return {"description": "any JSON"}


def statuses(definition: Definition) -> set[int]:
    """Every status the route may answer with."""
    own = {reply.status for reply in definition.replies} | set(definition.problems) | set(ALWAYS)
    return own if definition.open else own | {401}


def _operation(definition: Definition, schemas: dict[type, Object]) -> Object:
    responses: dict[str, Object] = {}
    for reply in definition.replies:
        entry = responses.setdefault(str(reply.status), {"description": reply.summary})
        content = _content(reply, schemas)
        if content:
            merged = entry.setdefault("content", {})
            assert isinstance(merged, dict), "content is an object"
            for kind, described in content.items():
                merged[kind] = _either(merged.get(kind), described)
    for status in sorted(statuses(definition) - {reply.status for reply in definition.replies}):
        responses[str(status)] = {
            "description": ALWAYS.get(status) or _MORE[status],
            "content": {PROBLEM_TYPE: {"schema": schemas[Problem]}},
        }
    operation: Object = {
        "operationId": definition.name,
        "tags": [definition.area],
        "summary": definition.summary,
        "responses": responses,
    }
    parameters = [
        *[_parameter(p, "path") for p in definition.parameters],
        *[_parameter(p, "query") for p in definition.query],
        *[
            {"name": f.name, "in": "header", "description": f.summary, "schema": {"type": "string"}}
            for f in definition.fields
            # OpenAPI says of these three that a parameter of that name is ignored.
            if f.name not in ("Accept", "Content-Type", "Authorization")
        ],
    ]
    if parameters:
        operation["parameters"] = parameters
    if definition.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas[definition.body]}}}
    elif definition.raw_body:
        operation["requestBody"] = {"content": {"*/*": {"schema": {}}}}
    if definition.open:
        operation["security"] = []
    return operation


def _content(reply: Reply, schemas: dict[type, Object]) -> Object:
    if reply.document is not None:
        return {JSON: {"schema": schemas[reply.document]}}
    kind = "object" if reply.content == JSON else "string"
    return {reply.content: {"schema": {"type": kind}}} if reply.content else {}


def _either(known: object, more: object) -> object:
    """Two documents of one kind under one status: which of them it is depends on what was asked."""
    if known is None:
        return more
    assert isinstance(known, dict), "a media type is an object"
    assert isinstance(more, dict), "a media type is an object"
    return {"schema": {"anyOf": [known["schema"], more["schema"]]}}


def _parameter(parameter: Parameter, where: str) -> Object:
    schema: Object
    match parameter.kind:
        case "integer":
            schema = {"type": "integer", "minimum": parameter.low, "maximum": parameter.high}
        case "flag":
            schema = {"type": "boolean"}
        case "texts":
            schema = {"type": "array", "items": {"type": "string"}}
        case _:
            schema = {"type": "string", "minLength": 1} if where == "path" else {"type": "string"}
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    described: Object = {
        "name": parameter.name,
        "in": where,
        "description": parameter.summary,
        "required": parameter.required or where == "path",
        "schema": schema,
    }
    return described
