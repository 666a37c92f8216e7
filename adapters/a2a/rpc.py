"""The JSON-RPC binding: one request a body, errors with status 200, items of a stream each a response of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from dragoman.adapters.a2a.errors import A2aError, Fault, refused
from dragoman.adapters.a2a.jsonrpc import Id, asked_by, failure, id_of, result
from dragoman.adapters.a2a.methods import Ask
from dragoman.adapters.a2a.wire import A2A_TYPE, JSON_TYPE, JsonObject, parse
from dragoman.adapters.serving.web import body
from dragoman.routing.refusals import Reason, RefusedError

Serve = Callable[[Ask], Awaitable["JsonObject | web.StreamResponse"]]

FORBIDDEN = frozenset((Reason.NOT_AUTHENTICATED, Reason.NOT_AUTHORIZED))
"""Said by the status as well; everything else has 200."""


async def serve_rpc(http: web.Request, serve: Serve, check_version: Callable[[], None]) -> web.StreamResponse:
    """Reads one request, has it served, says its answer."""
    request_id: Id = None
    try:
        check_media_type(http)
        given = parse(await body(http))
        request_id = id_of(given)
        check_version()
        asked = asked_by(given)
        answer = await serve(Ask(asked.method, asked.params, lambda item: result(request_id, item)))
    except A2aError as error:
        return _error(request_id, error)
    except RefusedError as error:
        return _error(request_id, refused(error.refusal))
    if isinstance(answer, web.StreamResponse):
        return answer
    return web.Response(body=msgspec.json.encode(result(request_id, answer)), content_type=JSON_TYPE)


def check_media_type(http: web.Request) -> None:
    """A body is JSON, by either of its names."""
    if http.content_type not in (JSON_TYPE, A2A_TYPE):
        detail = f"the body is {http.content_type}; send {A2A_TYPE} or {JSON_TYPE}"
        raise A2aError(Fault.CONTENT_TYPE_NOT_SUPPORTED, detail, status=415)


def _error(request_id: Id, error: A2aError) -> web.Response:
    forbidden = error.refusal is not None and error.refusal.reason in FORBIDDEN
    status = error.status if forbidden or error.status == 415 else 200
    answer = failure(request_id, error.rpc())
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type=JSON_TYPE)
