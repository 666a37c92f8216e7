"""An A2A agent's card as one of ours, and the interface of it that we speak. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from dragoman.adapters.serving.a2a_forms import FormError, JsonObject, member, objects, text_of
from dragoman.adapters.serving.answers import plain
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
from dragoman.routing.refusals import Refusal

VERSION: Final = "1.0"
JSONRPC: Final = "JSONRPC"
HTTP_JSON: Final = "HTTP+JSON"

KIND_TAG: Final = "a2a"
SCHEMAS: Final = "urn:dragoman:a2a:skill-schemas:1"
"""The extension under which a mesh tells the schemas of its skills, which A2A has no place for."""


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


def card_of(given: object, agent: str, address: str = "", *, secret: bool = False) -> Read:
    """An agent's card as one of ours, and the interface of it that we speak. Raises ``FormError``.

    ``secret``: a token goes with all that is said, and so only where the card at ``address`` came from.
    """
    if not isinstance(given, dict) or not isinstance(given.get("skills", []), list):
        raise FormError("its card is of no use: it is no object with a list of skills")
    interface = _interface(given, address if secret else "")
    told = {"name": _line(given.get("name"), NAME_CHARS_MAX), "url": interface.url}
    told |= {"description": plain(text_of(given.get("description")), DESCRIPTION_CHARS_MAX)}
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
        "description": plain(text_of(given.get("description")), DESCRIPTION_CHARS_MAX),
        "tags": [KIND_TAG, LINKED, *(tags if isinstance(tags, list) else [])][:TAGS_MAX],
        **{
            name: schema
            for name, schema in member(schemas, text_of(given.get("id"))).items()
            if name.endswith("Schema")
        },
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
        url, binding, tenant = (
            text_of(offered.get("url")),
            text_of(offered.get("protocolBinding")),
            offered.get("tenant"),
        )
        if not text_of(offered.get("protocolVersion")).startswith("1.") or not _is_web(url):
            continue
        if address and not _as_safe(url, address):
            elsewhere = f"; {url[:200]!r} is not where the card is, and the token goes nowhere else"
            continue
        found.setdefault(binding, Interface(url.rstrip("/"), binding, tenant if text_of(tenant) else None, streams))
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


def _line(value: object, chars_max: int) -> str:
    return plain(text_of(value), chars_max).replace("\n", " ")
