"""A call as a message to an A2A agent, and what such agents say as answers. Pure; bytes and JSON only.

Whoever asks A2A agents on the mesh's behalf needs it: the links by HTTP, A2A over MQTT by publishing.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dragoman.adapters.serving.answers import Answer
from dragoman.adapters.serving.json_in import strict_json
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.offers import Asked

JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"
BINARY_TYPE: Final = "application/octet-stream"

JsonObject: TypeAlias = dict[str, Any]


class FormError(Exception):
    """What came is no A2A of this version. The text is a sentence for the operator."""


def objects(value: object) -> list[JsonObject]:
    """The objects of a list; none if it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def member(value: object, name: str) -> JsonObject:
    """An object's member that is an object; an empty one if there is none."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def text_of(value: object) -> str:
    """A text; empty if it is none."""
    return value if isinstance(value, str) else ""


def message_of(asked: Asked, left_ms: int) -> JsonObject:
    """The message a call is."""
    metadata: JsonObject = {"skill": asked.skill, "deadline_ms": max(1, left_ms)}
    if asked.cause is not None:
        metadata["cause"] = asked.cause
    return {
        "messageId": asked.id,
        "role": "ROLE_USER",
        "parts": [part_of(asked.arguments, asked.content_type)],
        "metadata": metadata,
    }


def part_of(payload: bytes, content_type: str | None) -> JsonObject:
    """Bytes as a part of a message."""
    if not payload.strip():
        return {"data": {}}
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"raw": b64encode(payload).decode(), "mediaType": content_type or BINARY_TYPE}
    try:
        value = strict_json(text)
    except ValueError:
        value = None
    # A lone number or word is as likely to be text that looks like JSON, and null is absent to some readers.
    if isinstance(value, dict | list):
        return {"data": value, "mediaType": content_type or JSON_TYPE}
    return {"text": text, "mediaType": content_type or TEXT_TYPE}


def answer_of(parts: object) -> Answer:
    """What parts say: one is itself; several are JSON, as the agent wrote them."""
    given = objects(parts)
    if not given:
        return Answer(b"")
    if len(given) > 1:
        return Answer(as_json({"parts": given}), JSON_TYPE)
    (part,) = given
    kind = text_of(part.get("mediaType")) or None
    if isinstance(part.get("text"), str):
        return Answer(part["text"].encode(errors="replace"), None if kind == TEXT_TYPE else kind)
    if "data" in part:
        return Answer(as_json(_whole(part["data"])), kind or JSON_TYPE)
    if isinstance(part.get("raw"), str):
        try:
            content = b64decode(part["raw"], validate=True)
        except (Base64Error, ValueError):
            return Answer(b"", failure=Refusal(Reason.FAILED, "the agent's answer holds base64 that is none"))
        return Answer(content, None if kind == BINARY_TYPE else kind)
    return Answer(as_json(part), JSON_TYPE)


def as_json(value: object) -> bytes:
    """JSON, as short as it goes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _whole(value: Any) -> Any:
    """Numbers as they were meant: to protocol buffers all of them are floats."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value
