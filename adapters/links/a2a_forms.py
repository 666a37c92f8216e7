"""A call as a message to an A2A agent, what its task says as answers, its card as ours. Pure; bytes and JSON only."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from dragoman.adapters.links.party import Answer
from dragoman.routing.cards import LINKED, TAGS_MAX, Card, parse_card
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.offers import Asked

VERSION: Final = "1.0"
JSONRPC: Final = "JSONRPC"
HTTP_JSON: Final = "HTTP+JSON"
JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"
BINARY_TYPE: Final = "application/octet-stream"

COMPLETED: Final = "TASK_STATE_COMPLETED"
FAILED: Final = ("TASK_STATE_FAILED", "TASK_STATE_REJECTED", "TASK_STATE_CANCELED")
ASKING: Final = ("TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED")

KIND_TAG: Final = "a2a"
SCHEMAS: Final = "urn:dragoman:a2a:skill-schemas:1"
"""The extension under which a mesh tells the schemas of its skills, which A2A has no place for."""

_REASONS: Final = {reason.value: reason for reason in Reason}

JsonObject: TypeAlias = dict[str, Any]


class FormError(Exception):
    """What came is no A2A of this version. The text is a sentence for the operator."""


class Interface(NamedTuple):
    """Where and how an agent is spoken to."""

    url: str
    binding: str
    tenant: str | None
    streams: bool


def card_of(given: object, agent: str) -> tuple[Card, Interface]:
    """An agent's card as one of ours, and the first interface we can speak. Raises ``FormError``."""
    card = parse_card(_with_schemas(given), agent)
    if isinstance(card, Refusal):
        raise FormError(f"its card is of no use: {card.detail}")
    skills = tuple(
        [
            replace(skill, tags=(KIND_TAG, LINKED, *skill.tags[: TAGS_MAX - 2]))
            for skill in card.skills
            if LINKED not in skill.tags
        ]
    )
    assert isinstance(given, dict), "a card was read from it"
    return replace(card, skills=skills), _interface(given)


def _interface(card: JsonObject) -> Interface:
    capabilities = card.get("capabilities")
    streams = isinstance(capabilities, dict) and capabilities.get("streaming") is True
    found: dict[str, Interface] = {}
    for offered in card.get("supportedInterfaces") or ():
        if isinstance(offered, dict) and str(offered.get("protocolVersion", "")).startswith("1."):
            url, binding, tenant = offered.get("url"), offered.get("protocolBinding"), offered.get("tenant")
            if isinstance(url, str) and isinstance(binding, str) and url.startswith(("http://", "https://")):
                given = tenant if isinstance(tenant, str) and tenant else None
                found.setdefault(binding, Interface(url.rstrip("/"), binding, given, streams))
    interface = found.get(JSONRPC) or found.get(HTTP_JSON)
    if interface is None:
        raise FormError("its card names no interface of A2A 1.0 by JSON-RPC or HTTP+JSON")
    return interface


def _with_schemas(card: object) -> object:
    """The card with the schemas of its skills where ours have them, if a mesh wrote it."""
    if not isinstance(card, dict):
        return card
    extensions = (
        (card.get("capabilities") or {}).get("extensions") if isinstance(card.get("capabilities"), dict) else None
    )
    schemas: JsonObject = {}
    for extension in extensions or ():
        if (
            isinstance(extension, dict)
            and extension.get("uri") == SCHEMAS
            and isinstance(extension.get("params"), dict)
        ):
            schemas = extension["params"]
    skills = card.get("skills")
    if not schemas or not isinstance(skills, list):
        return card
    told = [
        {**skill, **schemas[skill["id"]]}
        if isinstance(skill, dict) and isinstance(schemas.get(str(skill.get("id"))), dict)
        else skill
        for skill in skills
    ]
    return {**card, "skills": told}


def message_of(asked: Asked, left_ms: int) -> JsonObject:
    """The message a call is."""
    metadata: JsonObject = {"skill": asked.skill, "deadline_ms": max(1, left_ms)}
    if asked.cause is not None:
        metadata["cause"] = asked.cause
    return {
        "messageId": asked.id,
        "role": "ROLE_USER",
        "parts": [_part(asked.arguments, asked.content_type)],
        "metadata": metadata,
    }


def _part(payload: bytes, content_type: str | None) -> JsonObject:
    if not payload.strip():
        return {"data": {}}
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"raw": b64encode(payload).decode(), "mediaType": content_type or BINARY_TYPE}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {"text": text, "mediaType": content_type or TEXT_TYPE}
    return {"data": value, "mediaType": content_type or JSON_TYPE}


def answer_of(parts: object) -> Answer:
    """What parts say: one is itself; several are JSON, as the agent wrote them."""
    if not isinstance(parts, list) or not parts:
        return Answer(b"")
    if len(parts) > 1:
        return Answer(_json({"parts": parts}), JSON_TYPE)
    part = parts[0] if isinstance(parts[0], dict) else {}
    kind = part.get("mediaType") or None
    if isinstance(part.get("text"), str):
        return Answer(part["text"].encode(errors="replace"), None if kind == TEXT_TYPE else kind)
    if "data" in part:
        return Answer(_json(_whole(part["data"])), kind or JSON_TYPE)
    if isinstance(part.get("raw"), str):
        try:
            content = b64decode(part["raw"], validate=True)
        except (Base64Error, ValueError):
            return Answer(b"", failure=Refusal(Reason.FAILED, "the agent's answer holds base64 that is none"))
        return Answer(content, None if kind == BINARY_TYPE else kind)
    return Answer(_json(part), JSON_TYPE)


@dataclass
class Following:
    """What a task has said so far. ``held``: the newest piece, which is the answer if none comes after it."""

    task: str = ""
    held: Answer | None = None
    ended: Answer | None = None

    def take(self, item: object) -> list[Answer]:
        """Takes one item of a stream, or a whole response; the pieces that are parts of an answer."""
        if not isinstance(item, dict):
            raise FormError("an item of its stream is no JSON object")
        told: list[Answer] = []
        if isinstance(item.get("message"), dict):
            self.ended = answer_of(item["message"].get("parts"))
        elif isinstance(task := item.get("task"), dict):
            self.task = str(task.get("id", ""))
            for artifact in task.get("artifacts") or ():
                told += self._piece(artifact)
            self._state(task.get("status"))
        elif isinstance(update := item.get("artifactUpdate"), dict):
            told += self._piece(update.get("artifact"))
        elif isinstance(update := item.get("statusUpdate"), dict):
            self.task = self.task or str(update.get("taskId", ""))
            self._state(update.get("status"))
        return told

    def snapshot(self, task: object) -> None:
        """Takes a whole task that was asked for: what its artifacts hold is the answer."""
        if not isinstance(task, dict):
            raise FormError("its task is no JSON object")
        artifacts = [artifact for artifact in task.get("artifacts") or () if isinstance(artifact, dict)]
        if artifacts:
            self.held = answer_of([part for artifact in artifacts for part in artifact.get("parts") or ()])
        self._state(task.get("status"))

    def _piece(self, artifact: object) -> list[Answer]:
        before, self.held = self.held, answer_of(artifact.get("parts") if isinstance(artifact, dict) else None)
        return [before] if before is not None else []

    def _state(self, status: object) -> None:
        if not isinstance(status, dict):
            return
        state, message = status.get("state"), status.get("message")
        if state == COMPLETED:
            said = answer_of(message.get("parts")) if isinstance(message, dict) else Answer(b"")
            self.ended = self.held or said
        elif state in FAILED:
            self.ended = Answer(b"", failure=_failure(str(state), message))
        elif state in ASKING:
            why = f"the agent asks back ({state}), which a call cannot answer"
            self.ended = Answer(b"", failure=Refusal(Reason.UNSUPPORTED, why))


def _failure(state: str, message: object) -> Refusal:
    said = message if isinstance(message, dict) else {}
    metadata = said.get("metadata")
    named = metadata.get("reason") if isinstance(metadata, dict) else None
    text = answer_of(said.get("parts")).payload.decode(errors="replace")[:1000]
    usual = Reason.CANCELLED if state == FAILED[2] else Reason.FAILED
    return Refusal(
        _REASONS.get(named, usual) if isinstance(named, str) else usual, text or f"the task ended as {state}"
    )


def _whole(value: Any) -> Any:
    """Numbers as they were meant: to protocol buffers all of them are floats."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
