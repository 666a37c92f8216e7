"""A call as a message to an A2A agent, an agent's card as ours, parts as answers. Pure; bytes and JSON only."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from dragoman.adapters.links.party import Answer, plain
from dragoman.routing.cards import (
    DESCRIPTION_CHARS_MAX,
    LINKED,
    NAME_CHARS_MAX,
    SKILLS_MAX,
    TAGS_MAX,
    VERSION_CHARS_MAX,
    Card,
    Skill,
    parse_card,
)
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.offers import Asked

VERSION: Final = "1.0"
JSONRPC: Final = "JSONRPC"
HTTP_JSON: Final = "HTTP+JSON"
JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"
BINARY_TYPE: Final = "application/octet-stream"

KIND_TAG: Final = "a2a"
SCHEMAS: Final = "urn:dragoman:a2a:skill-schemas:1"
"""The extension under which a mesh tells the schemas of its skills, which A2A has no place for."""

JsonObject: TypeAlias = dict[str, Any]


class FormError(Exception):
    """What came is no A2A of this version. The text is a sentence for the operator."""


class Interface(NamedTuple):
    """Where and how an agent is spoken to."""

    url: str
    binding: str
    tenant: str | None
    streams: bool


class Read(NamedTuple):
    """What a card says. ``faults``: a sentence for each skill of it that cannot be one of ours."""

    card: Card
    interface: Interface
    faults: list[str]


def objects(value: object) -> list[JsonObject]:
    """The objects of a list; none if it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def member(value: object, name: str) -> JsonObject:
    """An object's member that is an object; an empty one if there is none."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


# -- cards ---------------------------------------------------------------------------------------


def card_of(given: object, agent: str, address: str = "", *, secret: bool = False) -> Read:
    """An agent's card as one of ours, and the interface of it that we speak. Raises ``FormError``.

    ``secret``: a token goes with all that is said, and so only where the card at ``address`` came from.
    """
    if not isinstance(given, dict) or not isinstance(given.get("skills", []), list):
        raise FormError("its card is of no use: it is no object with a list of skills")
    interface = _interface(given, address if secret else "")
    told = {"name": _line(given.get("name"), NAME_CHARS_MAX), "url": interface.url}
    told |= {"description": plain(_text(given.get("description")), DESCRIPTION_CHARS_MAX)}
    card = parse_card(told | {"version": _line(given.get("version"), VERSION_CHARS_MAX)}, agent)
    if isinstance(card, Refusal):
        raise FormError(f"its card is of no use: {card.detail}")
    skills, faults = _skills(given)
    return Read(Card(agent, card.name, card.description, card.version, tuple(skills), url=card.url), interface, faults)


def _skills(card: JsonObject) -> tuple[list[Skill], list[str]]:
    skills: dict[str, Skill] = {}
    faults: list[str] = []
    schemas = _schemas(card)
    for given in card.get("skills", []):
        tags = given.get("tags") if isinstance(given, dict) else None
        if isinstance(tags, list) and LINKED in tags:
            continue
        read = parse_card({"name": "x", "skills": [_skill(given, tags, schemas)]}, "x")
        if isinstance(read, Refusal):
            faults.append(f"a skill of its card is of no use: {read.detail}")
        elif len(skills) == SKILLS_MAX:
            faults.append(f"its card has more than {SKILLS_MAX} skills, and only so many are taken")
            break
        else:
            skills.setdefault(read.skills[0].name, read.skills[0])
    return list(skills.values()), faults


def _skill(given: object, tags: object, schemas: JsonObject) -> object:
    """The skill with its schemas where ours have them. Control characters go: people and models read its texts."""
    if not isinstance(given, dict):
        return given
    return {
        "id": given.get("id"),
        "name": _line(given.get("name"), NAME_CHARS_MAX),
        "description": plain(_text(given.get("description")), DESCRIPTION_CHARS_MAX),
        "tags": [KIND_TAG, LINKED, *(tags if isinstance(tags, list) else [])][:TAGS_MAX],
        **{name: schema for name, schema in member(schemas, _text(given.get("id"))).items() if name.endswith("Schema")},
    }


def _schemas(card: JsonObject) -> JsonObject:
    """The schemas of a card's skills, by their ids, if a mesh wrote it."""
    for extension in objects(member(card, "capabilities").get("extensions")):
        if extension.get("uri") == SCHEMAS:
            return member(extension, "params")
    return {}


def _interface(card: JsonObject, address: str) -> Interface:
    streams = member(card, "capabilities").get("streaming") is True
    found: dict[str, Interface] = {}
    elsewhere = ""
    for offered in objects(card.get("supportedInterfaces")):
        url, binding, tenant = _text(offered.get("url")), _text(offered.get("protocolBinding")), offered.get("tenant")
        if not _text(offered.get("protocolVersion")).startswith("1.") or not _is_web(url):
            continue
        if address and not _as_safe(url, address):
            elsewhere = f"; {url[:200]!r} is not where the card is, and the token goes nowhere else"
            continue
        found.setdefault(binding, Interface(url.rstrip("/"), binding, tenant if _text(tenant) else None, streams))
    interface = found.get(JSONRPC) or found.get(HTTP_JSON)
    if interface is None:
        raise FormError(f"its card names no interface of A2A 1.0 by JSON-RPC or HTTP+JSON that can be used{elsewhere}")
    return interface


def _is_web(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _as_safe(url: str, address: str) -> bool:
    """Whether a token may go to this URL if it may go to the address: the same host, and no less secret."""
    there, here = urlsplit(url), urlsplit(address)
    return there.hostname == here.hostname and (there.scheme == "https" or here.scheme == "http")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _line(value: object, chars_max: int) -> str:
    return plain(_text(value), chars_max).replace("\n", " ")


# -- what is said, and what is answered ----------------------------------------------------------


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
    kind = _text(part.get("mediaType")) or None
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
