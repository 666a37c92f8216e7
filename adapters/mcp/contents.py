"""How messages, answers and refusals look inside MCP results. Bytes in, JSON out; knows no broker.

The payload is the sender's bytes: text if it is UTF-8, base64 otherwise, never anything else.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, Final

from dragoman.adapters.mcp.kernel import JsonObject
from dragoman.routing.message import EMPTY, NEVER
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.routing.message import Message

BINARY: Final = "application/octet-stream"

DEPTH_MAX: Final = 200
"""Levels of an answer that is also given as structured content. Pydantic writes 255, and the result has some itself."""


def text_of(payload: bytes) -> str | None:
    """The payload as text; None if it is not UTF-8."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def base64_of(payload: bytes) -> str:
    """The payload in base64."""
    return b64encode(payload).decode("ascii")


def from_base64(text: str) -> bytes | Refusal:
    """The bytes some base64 stands for."""
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        return Refusal(Reason.PAYLOAD_INVALID, "base64 is not base64")


def message_json(message: Message) -> JsonObject:
    """A message as mesh tools show it. Absent facts are absent; ``text``, ``base64`` or ``tombstone``."""
    envelope = message.envelope or EMPTY
    shown: JsonObject = {
        "channel": message.name,
        "id": message.id,
        "offset": message.offset,
        "time_ms": message.time_ms,
    }
    if message.payload is not None:
        text = text_of(message.payload)
        shown["base64" if text is None else "text"] = base64_of(message.payload) if text is None else text
    else:
        shown["tombstone"] = True
    if message.sender:
        shown["sender"] = message.sender
    if message.retain:
        shown["retained"] = True
    for word, value in (
        ("content_type", envelope.content_type),
        ("reply_to", envelope.reply_to),
        ("cause", envelope.cause),
        ("sent_ms", envelope.sent_ms),
    ):
        if value is not None:
            shown[word] = value
    _show(shown, "correlation", envelope.correlation)
    _show(shown, "key", envelope.key)
    if envelope.expires_ms != NEVER:
        shown["expires_ms"] = envelope.expires_ms
    if envelope.hops:
        shown["hops"] = envelope.hops
    if envelope.headers:
        shown["headers"] = [_show({"name": name}, "value", value) for name, value in envelope.headers]
    return shown


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
    """The JSON object a text is; None if it is anything else, or nested so deeply that it cannot go into a result."""
    if text.lstrip()[:1] != "{":
        return None
    try:
        value = strict_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and _shallow(value) else None


def strict_json(text: str | bytes) -> Any:
    """Decoded JSON. Raises ValueError for all that is none: also NaN, and what is nested beyond reading."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


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


def encodable(value: object) -> bool:
    """Whether UTF-8 can hold every text in a JSON value: JSON can spell half a surrogate pair, which it cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _shallow(value: object) -> bool:
    """Whether nothing in a JSON value is nested deeper than ``DEPTH_MAX``."""
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def _show(shown: JsonObject, word: str, value: bytes | None) -> JsonObject:
    """Adds bytes under ``word`` if they are text, else under ``word_base64``; nothing for None."""
    if value is not None:
        text = text_of(value)
        shown[word if text is not None else f"{word}_base64"] = text if text is not None else base64_of(value)
    return shown


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")
