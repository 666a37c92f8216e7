"""How messages, answers and refusals look inside MCP results. Bytes in, JSON out; knows no broker.

The payload is the sender's bytes: text if it is UTF-8, base64 otherwise, never anything else.
"""

from __future__ import annotations

import json
from typing import Any, Final

from dragoman.adapters.mcp.kernel import INTERNAL_ERROR, JsonObject, RpcError
from dragoman.adapters.serving.json_in import shallow, strict_json
from dragoman.routing.refusals import Refusal
from dragoman.routing.words import base64_of, text_of

BINARY: Final = "application/octet-stream"


def resource_json(uri: str, payload: bytes, content_type: str | None) -> JsonObject:
    """A payload as the contents of a resource."""
    text = text_of(payload)
    shown: JsonObject = {"uri": uri, "mimeType": content_type or (BINARY if text is None else "text/plain")}
    shown["blob" if text is None else "text"] = base64_of(payload) if text is None else text
    return shown


def answer_result(payload: bytes | None, content_type: str | None, uri: str) -> JsonObject:
    """The final answer of a call as a tool's result. ``uri`` names it where its bytes are no text."""
    if payload is None:
        return {"resultType": "complete", "content": []}
    kind = (content_type or "").partition("/")[0]
    text = text_of(payload)
    block: JsonObject
    if kind in ("image", "audio") and text is None:
        block = {"type": kind, "data": base64_of(payload), "mimeType": content_type}
    elif text is None:
        block = {"type": "resource", "resource": resource_json(uri, payload, content_type)}
    else:
        block = {"type": "text", "text": text}
    result: JsonObject = {"resultType": "complete", "content": [block]}
    structured = None if text is None else object_of(text)
    if structured is not None:
        result["structuredContent"] = structured
    return result


def object_of(text: str) -> dict[str, Any] | None:
    """The JSON object a text is; None if it is anything else, or cannot go into a result: too deep, or no number."""
    if text.lstrip()[:1] != "{":
        return None
    try:
        value = strict_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and shallow(value) else None


def mesh_result(outcome: JsonObject) -> JsonObject:
    """What a mesh tool found out, as its result: structured, and as text for clients that read only that."""
    text = json.dumps(outcome, ensure_ascii=False, separators=(",", ":"))
    return {
        "resultType": "complete",
        "content": [{"type": "text", "text": text}],
        "structuredContent": outcome,
    }


def refused_result(refusal: Refusal) -> JsonObject:
    """A no, as a tool's result: the model reads it and may do better. The reason is a stable name."""
    text = f"{refusal.reason.value}: {refusal.detail}"
    if refusal.retry_after_ms:
        text += f" (try again in {refusal.retry_after_ms} ms)"
    return {"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": True}


def refused_error(refusal: Refusal) -> RpcError:
    """A no to the request itself, which no tool has seen."""
    return RpcError(INTERNAL_ERROR, f"{refusal.reason.value}: {refusal.detail}")


def encodable(value: object) -> bool:
    """Whether UTF-8 can hold every text in a JSON value: JSON can spell half a surrogate pair, which it cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
