"""JSON-RPC as MCP puts it on HTTP: bodies in, answers out. Knows no socket and no state.

Which of the two eras a message belongs to is decided here, by the body first: a ``_meta`` that names a
protocol version, or the method ``initialize``. The headers decide only where the body is silent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, final

from dragoman.adapters.mcp.kernel import (
    HANDSHAKE_VERSIONS,
    INVALID_REQUEST,
    PARSE_ERROR,
    VERSION_HEADER,
    VERSION_KEY,
    JsonObject,
    RequestId,
    RpcError,
)
from dragoman.adapters.serving.json_in import strict_json

SESSION_HEADER: Final = "mcp-session-id"
JSON_TYPE: Final = "application/json"


class Era(Enum):
    """How a client speaks: self-contained requests, or a session opened by a handshake."""

    MODERN = "modern"
    HANDSHAKE = "handshake"


@final
class Envelope:
    """One JSON-RPC message of a client. ``id`` is None for a notification."""

    __slots__ = ("body", "id", "method", "params")

    def __init__(self, body: JsonObject, id: RequestId | None, method: str, params: JsonObject | None) -> None:
        self.body = body
        self.id = id
        self.method = method
        self.params = params


def parse(raw: bytes) -> Envelope | RpcError:
    """The message in a POST body, or what is wrong with it. Batches and posted responses are refused."""
    try:
        body = strict_json(raw)
    except ValueError:
        return RpcError(PARSE_ERROR, "the body is not JSON")
    if not isinstance(body, dict):
        return RpcError(INVALID_REQUEST, "the body must be one JSON-RPC request or notification, not a batch")
    method, params = body.get("method"), body.get("params")
    if body.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return RpcError(INVALID_REQUEST, "the body must be a JSON-RPC 2.0 request or notification")
    if params is not None and not isinstance(params, dict):
        return RpcError(INVALID_REQUEST, "params must be an object")
    if "id" not in body:
        return Envelope(body, None, method, params)
    identity = body["id"]
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        return RpcError(INVALID_REQUEST, "id must be a string or an integer")
    return Envelope(body, identity, method, params)


def id_of(raw: bytes) -> RequestId | None:
    """The id under which the sender of a request waits that is wrong otherwise; None if it is no request, or has none.

    For carriers where an answer is known by its id alone.
    """
    try:
        body = strict_json(raw)
    except ValueError:
        return None
    identity = body.get("id") if isinstance(body, dict) and isinstance(body.get("method"), str) else None
    return identity if isinstance(identity, str | int) and not isinstance(identity, bool) else None


def era_of(envelope: Envelope, headers: Mapping[str, str]) -> Era:
    """Which era this message belongs to. ``headers`` is case-insensitive."""
    meta = (envelope.params or {}).get("_meta")
    if isinstance(meta, dict) and VERSION_KEY in meta:
        return Era.MODERN
    version = headers.get(VERSION_HEADER)
    if envelope.method == "initialize" or version is None or version in HANDSHAKE_VERSIONS:
        return Era.HANDSHAKE
    return Era.MODERN


def accepts(header: str, wanted: str) -> bool:
    """Whether an Accept header takes a media type; quality values are not weighed, except 0 which refuses."""
    kind = wanted.split("/", 1)[0] + "/*"
    for part in header.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media in (wanted, kind, "*/*") and not any(p.replace(" ", "") in ("q=0", "q=0.0") for p in parameters):
            return True
    return False


def result_body(request_id: RequestId, result: JsonObject) -> bytes:
    """A JSON-RPC answer."""
    return _dump({"jsonrpc": "2.0", "id": request_id, "result": result})


def error_body(request_id: RequestId | None, error: RpcError) -> bytes:
    """A JSON-RPC error; with id null where the request's could not be read."""
    told: JsonObject = {"code": error.code, "message": error.message}
    if error.data is not None:
        told["data"] = error.data
    return _dump({"jsonrpc": "2.0", "id": request_id, "error": told})


def notification_body(method: str, params: Mapping[str, Any] | None) -> bytes:
    """A JSON-RPC notification."""
    body: JsonObject = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        body["params"] = dict(params)
    return _dump(body)


def _dump(body: JsonObject) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
