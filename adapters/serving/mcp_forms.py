"""Tools as skills, a call as a tool's arguments, a tool's result as an answer. Pure; bytes and JSON only."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dragoman.adapters.serving.answers import Answer, plain
from dragoman.adapters.serving.json_in import strict_json
from dragoman.routing.cards import DESCRIPTION_CHARS_MAX, LINKED, NAME_CHARS_MAX, Card, parse_card
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcp_types import CallToolResult, ContentBlock, Tool

    from dragoman.routing.cards import Skill

JSON_TYPE: Final = "application/json"

KIND_TAG: Final = "mcp"
LINKED_MARK: Final = "dragoman/linked"
"""In a tool's ``_meta``: a mesh has it from a link of its own. Such tools stay there, or they would go round."""

SCHEMA_BYTES_MAX: Final = 64 * 1024
"""A tool whose schemas are larger is still a skill, of any arguments."""


def skills_of(tools: Iterable[Tool]) -> tuple[list[Skill], list[str]]:
    """The tools that can be skills, by name, and a sentence for each that cannot."""
    skills: dict[str, Skill] = {}
    faults: list[str] = []
    for tool in tools:
        if (tool.meta or {}).get(LINKED_MARK):
            continue
        card = parse_card({"name": "x", "skills": [_skill_json(tool)]}, "x")
        if isinstance(card, Refusal):
            faults.append(f"the tool {tool.name[:NAME_CHARS_MAX]!r} is no skill: {card.detail}")
        else:
            skills.setdefault(tool.name, card.skills[0])
    return [skills[name] for name in sorted(skills)], faults


def card_of(agent: str, name: str, description: str, version: str, url: str) -> Card:
    """The card of the agent a server is; its skills come by being served."""
    given = {"name": plain(name, NAME_CHARS_MAX).replace("\n", " ").strip() or agent, "url": url}
    given |= {"description": plain(description, DESCRIPTION_CHARS_MAX), "version": plain(version, 64)}
    card = parse_card(given, agent)
    return Card(agent, agent) if isinstance(card, Refusal) else card


def arguments_of(payload: bytes) -> dict[str, Any] | Refusal:
    """The arguments of a call; none at all is an empty object."""
    if not payload.strip():
        return {}
    try:
        given = strict_json(payload)
    except ValueError:
        return Refusal(Reason.ARGUMENTS_INVALID, "an MCP tool takes a JSON object, and these arguments are no JSON")
    if not isinstance(given, dict):
        return Refusal(Reason.ARGUMENTS_INVALID, "an MCP tool takes a JSON object as its arguments")
    return given


def answer_of(result: CallToolResult, bytes_max: int) -> Answer:
    """A tool's result as an answer. One block is itself; several are JSON, as the server wrote them."""
    answer = _answer(result)
    if len(answer.payload) > bytes_max:
        detail = f"the answer has {len(answer.payload)} bytes, at most {bytes_max} are carried"
        return Answer(b"", failure=Refusal(Reason.TOO_LARGE, detail))
    return answer


def part_of(progress: float, total: float | None, message: str | None) -> tuple[bytes, str | None]:
    """A report of progress as a part of an answer: its message, or the numbers if it has none."""
    if message is not None:
        return message.encode(errors="replace"), None
    told = {"progress": progress} if total is None else {"progress": progress, "total": total}
    return json.dumps(told).encode(), JSON_TYPE


def _answer(result: CallToolResult) -> Answer:
    blocks = result.content
    texts = [block.text for block in blocks if block.type == "text"]
    if result.is_error:
        told = "\n".join(texts) or "the tool failed and does not say why"
        return Answer(b"", failure=Refusal(Reason.FAILED, told))
    if result.structured_content is not None:
        structured = result.structured_content
        # A text that says the same is the server's own spelling of it.
        same = len(blocks) == 1 and len(texts) == 1 and _says(texts[0], structured)
        with suppress(ValueError, RecursionError):  # a number beyond numbers: what the blocks say is left
            return Answer(texts[0].encode(errors="replace") if same else _json(structured), JSON_TYPE)
    if len(blocks) == 1:
        single = _single(blocks[0])
        if single is not None:
            return single
    if not blocks:
        return Answer(b"")
    written = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in blocks]
    return Answer(_json({"content": written}), JSON_TYPE)


def _single(block: ContentBlock) -> Answer | None:
    """The answer one block is; None if it is only a pointer to one."""
    match block.type:
        case "text":
            # MCP does not say what a text is, and it often is JSON.
            return Answer(block.text.encode(errors="replace"))
        case "image" | "audio":
            return _decoded(block.data, block.mime_type)
        case "resource":
            held = block.resource
            text = getattr(held, "text", None)
            if text is not None:
                return Answer(text.encode(errors="replace"), held.mime_type)
            return _decoded(getattr(held, "blob", ""), held.mime_type)
    return None


def _decoded(base64: str, content_type: str | None) -> Answer:
    try:
        return Answer(b64decode(base64, validate=True), content_type or "application/octet-stream")
    except (binascii.Error, ValueError):
        return Answer(b"", failure=Refusal(Reason.FAILED, "the server's answer holds base64 that is none"))


def _skill_json(tool: Tool) -> dict[str, object]:
    """The tool as a skill of a card. Control characters go: people and models read these texts."""
    annotated = tool.annotations.title if tool.annotations is not None else None
    given: dict[str, object] = {
        "name": tool.name,
        "title": plain(tool.title or annotated or "", NAME_CHARS_MAX).replace("\n", " "),
        "description": plain(tool.description or "", DESCRIPTION_CHARS_MAX),
        "tags": [KIND_TAG, LINKED],
    }
    for name, schema in (("inputSchema", tool.input_schema), ("outputSchema", tool.output_schema)):
        if schema is not None and len(json.dumps(schema)) <= SCHEMA_BYTES_MAX:
            given[name] = schema
    return given


def _says(text: str, value: object) -> bool:
    try:
        return bool(json.loads(text) == value)
    except (ValueError, RecursionError):
        return False


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(errors="replace")
