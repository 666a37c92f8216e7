"""What agents say they can do. One model of a card, whoever's form it came in, and search over many.

Reads A2A Agent Cards and our own minimal form, which is a subset of them plus schemas. Knows no
protocol's projection beyond the field names of ``card_json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import Final, Protocol, TypeAlias, TypeVar

from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

Schema: TypeAlias = "dict[str, object]"
"""A JSON Schema. Never changed once in a skill."""

SKILLS_MAX: Final = 256
"""Skills of one agent. Each is a tool to every model that lists tools, and those lose their way in far fewer."""

TAGS_MAX: Final = 64
LINKED: Final = "dragoman:linked"
"""Tag of a skill that a mesh has over a link of its own. Such skills stay there, or they would go round in a ring."""

NAME_CHARS_MAX: Final = 128
"""Of an agent's or a skill's name; MCP tool names end at 64, A2A cards in the wild stay below 100."""

TAG_CHARS_MAX: Final = 64
VERSION_CHARS_MAX: Final = 64
URL_CHARS_MAX: Final = 2_048
DESCRIPTION_CHARS_MAX: Final = 8_192
SCHEMA_DEPTH_MAX: Final = 32
"""Levels of nesting in a schema: far beyond what people write, far below where a recursive reader gives up."""

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_EXACT_FLOAT_MAX: Final = 2**53
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LAYOUT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing an agent can be asked to do.

    ``name``   what it is called by (A2A's skill id), unique within a card
    ``title``  its name for people, empty if it has none
    Without an ``input_schema`` it takes any object.
    """

    name: str
    description: str = ""
    input_schema: Schema | None = None
    output_schema: Schema | None = None
    tags: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """What an agent is and can do, in its own words but for ``agent``, which is the id we know it by."""

    agent: str
    name: str
    description: str = ""
    version: str = ""
    skills: tuple[Skill, ...] = ()
    tags: tuple[str, ...] = ()
    url: str | None = None

    def skill(self, name: str) -> Skill | None:
        """The skill called ``name``."""
        return next((skill for skill in self.skills if skill.name == name), None)


class Entry(Protocol):
    """What search needs to know of an agent in a directory."""

    @property
    def agent(self) -> str:
        """Its id."""

    @property
    def card(self) -> Card | None:
        """Its card, if it gave one."""

    @property
    def state(self) -> str:
        """Its presence, as the broker verified it."""

    @property
    def load(self) -> float:
        """How much it has to do; any measure that is the same for all."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; everything given must hold. ``skill`` is exact, ``tag`` and ``text`` ignore case.

    ``tag``   of the card or of one of its skills
    ``text``  words, all of which occur somewhere in the id or the card
    """

    id: str | None = None
    tag: str | None = None
    skill: str | None = None
    text: str | None = None
    state: str | None = None
    load_max: float | None = None


E = TypeVar("E", bound=Entry)


def search(entries: Iterable[E], query: Query) -> list[E]:
    """The entries that fit, best first: by where the words of ``text`` occur, then least load, then id."""
    words = query.text.casefold().split() if query.text is not None else []
    tag = query.tag.casefold() if query.tag is not None else None
    ranked: list[tuple[int, float, str, E]] = []
    for entry in entries:
        if not _fits(entry, query) or (tag is not None and tag not in _tags(entry.card)):
            continue
        rank = _text_rank(entry, words) if words else 0
        if rank >= 0:
            ranked.append((-rank, entry.load, entry.agent, entry))
    ranked.sort(key=_ranking)
    return [entry for _, _, _, entry in ranked]


def skill_key(skill: Skill) -> str:
    """What makes two agents' skills the same tool: the name and both schemas, however their JSON was laid out."""
    schemas = _canonical([skill.input_schema, skill.output_schema])
    text = json.dumps(schemas, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{skill.name}:{sha256(text.encode()).hexdigest()[:16]}"


def card_json(card: Card) -> dict[str, object]:
    """The card as JSON, in A2A's field names. ``parse_card`` reads it back as the same card."""
    data: dict[str, object] = {
        "agent": card.agent,
        "name": card.name,
        "description": card.description,
        "version": card.version,
        "skills": [_skill_json(skill) for skill in card.skills],
        "tags": list(card.tags),
    }
    if card.url is not None:
        data["url"] = card.url
    return data


def parse_card(data: object, agent: str) -> Card | Refusal:
    """A card from decoded JSON: an A2A Agent Card (0.3 or 1.0) or our form, ``{"name": …, "skills": [{"name": …}]}``.

    ``agent`` is a checked id and wins over any the card names. Unknown fields are ignored and ``null`` is absent.
    The caller has bounded the JSON to 64 KiB. Nothing of ``data`` is kept, so it may be changed afterwards.
    """
    try:
        return _card(data, agent)
    except RefusedError as error:
        return error.refusal


# -- search --------------------------------------------------------------------------------------


def _fits(entry: Entry, query: Query) -> bool:
    if query.id is not None and entry.agent != query.id:
        return False
    if query.state is not None and entry.state != query.state:
        return False
    if query.load_max is not None and entry.load > query.load_max:
        return False
    return query.skill is None or (entry.card is not None and entry.card.skill(query.skill) is not None)


def _tags(card: Card | None) -> set[str]:
    if card is None:
        return set()
    return {tag.casefold() for tags in (card.tags, *[skill.tags for skill in card.skills]) for tag in tags}


def _text_rank(entry: Entry, words: list[str]) -> int:
    """How well the words fit: 3 for each in a name, 2 in a tag or skill, 1 in a description; -1 if one is missing."""
    card = entry.card
    names = entry.agent
    skills = texts = ""
    if card is not None:
        names = f"{entry.agent}\n{card.name}"
        skills = "\n".join([*card.tags, *[part for s in card.skills for part in (s.name, s.title, *s.tags)]])
        texts = "\n".join([card.description, *[skill.description for skill in card.skills]])
    fields = ((3, names.casefold()), (2, skills.casefold()), (1, texts.casefold()))
    rank = 0
    for word in words:
        weight = next((weight for weight, field in fields if word in field), 0)
        if not weight:
            return -1
        rank += weight
    return rank


def _ranking(found: tuple[int, float, str, E]) -> tuple[int, float, str]:
    return found[:3]


# -- reading and writing ---------------------------------------------------------------------------


def _skill_json(skill: Skill) -> dict[str, object]:
    data: dict[str, object] = {
        "id": skill.name,
        "name": skill.title or skill.name,
        "description": skill.description,
        "tags": list(skill.tags),
    }
    if skill.input_schema is not None:
        data["inputSchema"] = skill.input_schema
    if skill.output_schema is not None:
        data["outputSchema"] = skill.output_schema
    return data


def _card(data: object, agent: str) -> Card:
    fields = _object(data, "card")
    skills = _list(fields.get("skills"), "skills", SKILLS_MAX)
    card = Card(
        agent=agent,
        name=_label(fields.get("name"), "name", NAME_CHARS_MAX),
        description=_text(fields.get("description"), "description", DESCRIPTION_CHARS_MAX),
        version=_line(fields.get("version"), "version", VERSION_CHARS_MAX),
        skills=tuple([_skill(skill, f"skills[{i}]") for i, skill in enumerate(skills)]),
        tags=_tag_list(fields.get("tags"), "tags"),
        url=_url(fields),
    )
    seen: set[str] = set()
    for i, skill in enumerate(card.skills):
        if skill.name in seen:
            raise _invalid(f"skills[{i}]", f"is a second skill called {shown(skill.name)}")
        seen.add(skill.name)
    return card


def _skill(data: object, where: str) -> Skill:
    fields = _object(data, where)
    has_id = fields.get("id") is not None
    name = _label(fields.get("id" if has_id else "name"), f"{where}.{'id' if has_id else 'name'}", NAME_CHARS_MAX)
    shown_as = fields.get("name") if has_id else fields.get("title")
    title = _line(shown_as, f"{where}.{'name' if has_id else 'title'}", NAME_CHARS_MAX)
    return Skill(
        name=name,
        description=_text(fields.get("description"), f"{where}.description", DESCRIPTION_CHARS_MAX),
        input_schema=_schema(fields, "inputSchema", "input_schema", where),
        output_schema=_schema(fields, "outputSchema", "output_schema", where),
        tags=_tag_list(fields.get("tags"), f"{where}.tags"),
        title="" if title == name else title,
    )


def _url(fields: dict[str, object]) -> str | None:
    """Where the agent itself listens: ``url`` (A2A 0.3 and ours), else that of the first interface (A2A 1.0)."""
    value, where = fields.get("url"), "url"
    if value is None:
        interfaces = _list(fields.get("supportedInterfaces"), "supportedInterfaces", SKILLS_MAX)
        if not interfaces:
            return None
        where = "supportedInterfaces[0].url"
        value = _object(interfaces[0], "supportedInterfaces[0]").get("url")
    return _line(value, where, URL_CHARS_MAX) or None


def _schema(fields: dict[str, object], camel: str, snake: str, where: str) -> Schema | None:
    key = camel if fields.get(camel) is not None else snake
    value = fields.get(key)
    if value is None:
        return None
    path = f"{where}.{key}"
    schema = _object(_copied(_object(value, path), path, SCHEMA_DEPTH_MAX), path)
    if camel == "inputSchema" and schema.get("type", "object") != "object":
        raise _invalid(path, f"must describe an object, not {shown(str(schema['type']))}, since arguments are named")
    return schema


def _copied(value: object, path: str, depth: int) -> object:
    """A copy of a JSON value that every encoder can write: finite numbers of 64 bits, text that UTF-8 can hold."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _encodable(value, path)
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise _invalid(path, "holds an integer of more than 64 bits")
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise _invalid(path, "holds a number that is not finite")
        return value
    if depth == 0:
        raise _invalid(path, f"is nested deeper than {SCHEMA_DEPTH_MAX} levels")
    if isinstance(value, list):
        return [_copied(item, path, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_encodable(key, path): _copied(item, path, depth - 1) for key, item in value.items()}
    raise _invalid(path, f"holds a {type(value).__name__}, which JSON does not know")


def _encodable(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _invalid(path, f"has a key that is {_kind(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _invalid(path, "holds text UTF-8 cannot hold") from None
    return value


def _canonical(value: object) -> object:
    """Integral floats as integers, as RFC 8785 has it: one serialiser's 1.0 is another's 1."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_FLOAT_MAX:
        return int(value)
    return value


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _invalid(where, f"must be an object, not {_kind(value)}")
    return value


def _list(value: object, where: str, count_max: int) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _invalid(where, f"must be a list, not {_kind(value)}")
    if len(value) > count_max:
        raise _invalid(where, f"has {len(value)} entries, at most {count_max} are allowed")
    return value


def _tag_list(value: object, where: str) -> tuple[str, ...]:
    tags = _list(value, where, TAGS_MAX)
    return tuple([_label(tag, f"{where}[{i}]", TAG_CHARS_MAX) for i, tag in enumerate(tags)])


def _label(value: object, where: str, chars_max: int) -> str:
    """A line that must be there."""
    if value is None:
        raise _invalid(where, "is missing")
    line = _line(value, where, chars_max)
    if not line.strip():
        raise _invalid(where, "is empty")
    return line


def _line(value: object, where: str, chars_max: int) -> str:
    text = _text(value, where, chars_max)
    if _CONTROL.search(text):
        raise _invalid(where, f"holds a control character: {shown(text)}")
    return text


def _text(value: object, where: str, chars_max: int) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid(where, f"must be text, not {_kind(value)}")
    if len(value) > chars_max:
        raise _invalid(where, f"has {len(value)} characters, at most {chars_max} are allowed")
    if _CONTROL_BUT_LAYOUT.search(value):
        raise _invalid(where, f"holds a control character: {shown(value)}")
    return _encodable(value, where)


def _kind(value: object) -> str:
    """The JSON name of a value's type, for sentences."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__


def _invalid(where: str, what: str) -> RefusedError:
    return RefusedError(Refusal(Reason.CARD_INVALID, f"{where} {what}"))
