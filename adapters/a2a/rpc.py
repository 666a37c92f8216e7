"""The JSON-RPC binding: one request a body, errors with status 200, items of a stream each a response of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from dragoman.adapters.a2a.errors import A2aError, Fault, refused
from dragoman.adapters.a2a.methods import Ask
from dragoman.adapters.a2a.wire import A2A_TYPE, JSON_TYPE, JsonObject, parse
from dragoman.adapters.serving.web import body
from dragoman.routing.refusals import Reason, RefusedError

Id = str | int | float | None

Serve = Callable[[Ask], Awaitable["JsonObject | web.StreamResponse"]]

FORBIDDEN = frozenset((Reason.NOT_AUTHENTICATED, Reason.NOT_AUTHORIZED))
"""Said by the status as well; everything else has 200."""


async def serve_rpc(http: web.Request, serve: Serve, check_version: Callable[[], None]) -> web.StreamResponse:
    """Reads one request, has it served, says its answer."""
    request_id: Id = None
    try:
        check_media_type(http)
        given = parse(await body(http))
        request_id = _id_of(given)
        check_version()
        answer = await serve(_ask(given, request_id))
    except A2aError as error:
        return _error(request_id, error)
    except RefusedError as error:
        return _error(request_id, refused(error.refusal))
    if isinstance(answer, web.StreamResponse):
        return answer
    return web.Response(body=msgspec.json.encode(_result(request_id, answer)), content_type=JSON_TYPE)


def check_media_type(http: web.Request) -> None:
    """A body is JSON, by either of its names."""
    if http.content_type not in (JSON_TYPE, A2A_TYPE):
        detail = f"the body is {http.content_type}; send {A2A_TYPE} or {JSON_TYPE}"
        raise A2aError(Fault.CONTENT_TYPE_NOT_SUPPORTED, detail, status=415)


def _id_of(given: Any) -> Id:
    if not isinstance(given, dict):
        raise A2aError(Fault.INVALID_REQUEST, "one request is one JSON object; there are no batches")
    request_id = given.get("id")
    if request_id is None or (isinstance(request_id, str | int | float) and not isinstance(request_id, bool)):
        return request_id
    raise A2aError(Fault.INVALID_REQUEST, "id is a string, a number or null")


def _ask(given: JsonObject, request_id: Id) -> Ask:
    method, params = given.get("method"), given.get("params")
    if given.get("jsonrpc") != "2.0":
        raise A2aError(Fault.INVALID_REQUEST, 'jsonrpc is "2.0"')
    if "id" not in given:
        raise A2aError(Fault.INVALID_REQUEST, "a request has an id; A2A has no notifications")
    if not isinstance(method, str):
        raise A2aError(Fault.INVALID_REQUEST, "method is the name of a method")
    if params is not None and not isinstance(params, dict):
        raise A2aError(Fault.INVALID_PARAMS, "params is an object", field="params")
    return Ask(method, params or {}, lambda item: _result(request_id, item))


def _result(request_id: Id, result: JsonObject) -> JsonObject:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def _error(request_id: Id, error: A2aError) -> web.Response:
    forbidden = error.refusal is not None and error.refusal.reason in FORBIDDEN
    status = error.status if forbidden or error.status == 415 else 200
    answer = {"jsonrpc": "2.0", "id": request_id, "error": error.rpc()}
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type=JSON_TYPE)
