"""One JSON-RPC 2.0 request as A2A has it, and its responses. Knows no carrier."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from dragoman.adapters.a2a.errors import A2aError, Fault
from dragoman.adapters.a2a.wire import JsonObject

Id: TypeAlias = str | int | float | None


class Asked(NamedTuple):
    """What is asked."""

    method: str
    params: JsonObject


def id_of(given: Any) -> Id:
    """The id of a decoded request, which its response repeats. Raises A2aError."""
    if not isinstance(given, dict):
        raise A2aError(Fault.INVALID_REQUEST, "one request is one JSON object; there are no batches")
    request_id = given.get("id")
    if request_id is None or (isinstance(request_id, str | int | float) and not isinstance(request_id, bool)):
        return request_id
    raise A2aError(Fault.INVALID_REQUEST, "id is a string, a number or null")


def asked_by(given: JsonObject) -> Asked:
    """What a request asks for. Raises A2aError."""
    method, params = given.get("method"), given.get("params")
    if given.get("jsonrpc") != "2.0":
        raise A2aError(Fault.INVALID_REQUEST, 'jsonrpc is "2.0"')
    if "id" not in given:
        raise A2aError(Fault.INVALID_REQUEST, "a request has an id; A2A has no notifications")
    if not isinstance(method, str):
        raise A2aError(Fault.INVALID_REQUEST, "method is the name of a method")
    if params is not None and not isinstance(params, dict):
        raise A2aError(Fault.INVALID_PARAMS, "params is an object", field="params")
    return Asked(method, params or {})


def result(request_id: Id, value: JsonObject) -> JsonObject:
    """A response with what was asked for."""
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def failure(request_id: Id, error: JsonObject) -> JsonObject:
    """A response that says why not."""
    return {"jsonrpc": "2.0", "id": request_id, "error": error}
