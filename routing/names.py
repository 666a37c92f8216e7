"""Channel names, filters, and how one name is written in every protocol. Knows no protocol's framing and no channel.

A name is levels joined by ``/``, exactly an MQTT topic name, so that any MQTT topic is a channel and
nothing needs mapping there. Every other spelling is reversible: what one protocol wrote, another
reads back as the same name. A spelling that cannot hold a name says so and never shortens it.
"""

from __future__ import annotations

import re
from collections.abc import Container
from hashlib import sha256
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from dragoman.routing.refusals import Reason, Refusal

NAME_BYTES_MAX: Final = 65_535
"""UTF-8 bytes of a name or filter: the length field of an MQTT string has 16 bits."""

LEVELS_MAX: Final = 128
"""Levels of a name or filter. Each level costs a step in every match and a node in every tree, and a name of
slashes alone would have 65,536 of them. EMQX allows 128, mosquitto 200; field names seldom pass 12."""

AGENT_BYTES_MAX: Final = 1_024
"""UTF-8 bytes of an agent id. Percent-encoded it triples, and still fits the 8,190-byte line HTTP servers take."""

KAFKA_TOPIC_MAX: Final = 249
"""Characters of a Kafka topic: the broker appends a partition and a suffix to make a file name of at most 255."""

TOOL_NAME_MAX: Final = 64
"""Characters of an MCP tool name that every model provider takes."""

SHARE_PREFIX: Final = "$share/"

assert KAFKA_TOPIC_MAX // 2 < LEVELS_MAX, "every legal Kafka topic must have few enough levels"
assert AGENT_BYTES_MAX * 3 < 8_190

_URI_ROOT: Final = "channel:///"
_URI_QUERY: Final = "channel:///?name="

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOTS: Final = re.compile(r"(\.\.?)%[Ff][Ff]")
_KAFKA_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_KAFKA_ESCAPED: Final = re.compile(r"_(?=x)|[^A-Za-z0-9_-]")
_KAFKA_ESCAPE: Final = re.compile(rb"_x([0-9a-f]{2})")
_NATS_ILLEGAL: Final = re.compile(r"[\x00-\x20\x7f]")
_TOOL_REPLACED: Final = re.compile(r"[^A-Za-z0-9_-]+")
_DIGEST_CHARS: Final = 8


# -- names and filters ---------------------------------------------------------------------------


def check_name(name: str) -> Refusal | None:
    """Why ``name`` cannot be a channel's, or None if it can.

    Empty levels, a leading ``$`` and every character but NUL and the wildcards are legal, since they are in MQTT.
    """
    fault = _text_fault(name)
    if fault:
        return Refusal(Reason.NAME_INVALID, f"channel name {fault}")
    if "+" in name or "#" in name:
        return Refusal(Reason.NAME_INVALID, f"channel name holds a wildcard, + or #: {shown(name)}")
    return None


def check_filter(filter: str) -> Refusal | None:
    """Why ``filter`` is not one, or None if it is. ``$share/…`` must have been taken apart (``parse_shared``)."""
    fault = _text_fault(filter)
    if fault:
        return Refusal(Reason.FILTER_INVALID, f"filter {fault}")
    if "+" not in filter and "#" not in filter:
        return None
    levels = filter.split("/")
    if "#" in levels[:-1]:
        return Refusal(Reason.FILTER_INVALID, f"# must be the last level of a filter: {shown(filter)}")
    for level in levels:
        if len(level) > 1 and ("+" in level or "#" in level):
            return Refusal(Reason.FILTER_INVALID, f"+ and # must be a whole level: {shown(filter)}")
    return None


def is_exact(filter: str) -> bool:
    """Whether a legal filter has no wildcard, so that it matches one name only."""
    return "+" not in filter and "#" not in filter


def matches(filter: str, name: str) -> bool:
    """Whether a legal filter matches a legal name. The definition; the trie must agree with it.

    ``a/#`` matches ``a``. A filter that starts with a wildcard matches no name that starts with ``$`` [MQTT-4.7.2-1].
    """
    if name.startswith("$") and filter.startswith(("+", "#")):
        return False
    wanted = filter.split("/")
    levels = name.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))


def parse_shared(filter: str) -> tuple[str, str] | Refusal | None:
    """(group, filter) of ``$share/{group}/{filter}``, both checked; None if it is an ordinary filter.

    The inner filter may not be shared again: no reading of two groups in one subscription makes sense.
    """
    if not filter.startswith(SHARE_PREFIX):
        return None
    fault = _text_fault(filter, LEVELS_MAX + 2)
    if fault:
        return Refusal(Reason.FILTER_INVALID, f"shared filter {fault}")
    group, _, inner = filter[len(SHARE_PREFIX) :].partition("/")
    if not group or "+" in group or "#" in group:
        return Refusal(Reason.FILTER_INVALID, f"shared filter needs a group name without + and #: {shown(filter)}")
    if not inner:
        return Refusal(Reason.FILTER_INVALID, f"shared filter names no filter after its group: {shown(filter)}")
    if inner.startswith(SHARE_PREFIX):
        return Refusal(Reason.FILTER_INVALID, f"shared filter holds another shared filter: {shown(filter)}")
    return check_filter(inner) or (group, inner)


def check_agent(agent: str) -> Refusal | None:
    """Why ``agent`` cannot be an agent's id, or None if it can.

    An MQTT client id may hold anything, so slashes, wildcards, spaces and dots are legal: in names, URLs and verbs
    the id is one percent-encoded level. Control characters are not, since ids go into headers, logs and terminals.
    """
    if not agent:
        return Refusal(Reason.NAME_INVALID, "agent id is empty")
    size = _utf8_size(agent)
    if size < 0:
        return Refusal(Reason.NAME_INVALID, f"agent id is not text UTF-8 can hold: {shown(agent)}")
    if size > AGENT_BYTES_MAX:
        return Refusal(Reason.NAME_INVALID, f"agent id has {size} bytes, at most {AGENT_BYTES_MAX} are allowed")
    if _CONTROL.search(agent):
        return Refusal(Reason.NAME_INVALID, f"agent id holds a control character: {shown(agent)}")
    return None


def shown(text: str) -> str:
    """``text`` quoted for a sentence: escaped, and cut where a hostile name would drown the rest."""
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}… ({len(text)} characters)"


def _text_fault(text: str, levels_max: int = LEVELS_MAX) -> str:
    """What names and filters have in common, as the end of a sentence; empty if nothing is wrong."""
    if not text:
        return "is empty"
    size = _utf8_size(text)
    if size < 0:
        return f"is not text UTF-8 can hold: {shown(text)}"
    if size > NAME_BYTES_MAX:
        return f"has {size} bytes, at most {NAME_BYTES_MAX} are allowed"
    if "\x00" in text:
        return f"holds a NUL character: {shown(text)}"
    levels = text.count("/") + 1
    if levels > levels_max:
        return f"has {levels} levels, at most {levels_max} are allowed"
    return ""


def _utf8_size(text: str) -> int:
    """Bytes of ``text`` in UTF-8; -1 if it has none (lone surrogates)."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


# -- Kafka ---------------------------------------------------------------------------------------


def to_kafka(name: str) -> str | Refusal:
    """The Kafka topic of a legal name: levels joined by dots, so ``factory/line1/temp`` is ``factory.line1.temp``.

    Within a level every byte but ``[A-Za-z0-9_-]`` is ``_xhh``, a ``_`` before an ``x`` is ``_x5f``, and an empty
    level is ``_x``. A bare ``_hh`` would read ``events_2024`` as an escape. Refused when the topic would be too long.
    """
    if not name:
        return Refusal(Reason.NAME_NOT_EXPRESSIBLE, "an empty name has no Kafka topic")
    topic = ".".join([_KAFKA_ESCAPED.sub(_kafka_escape, level) or "_x" for level in name.split("/")])
    if len(topic) > KAFKA_TOPIC_MAX:
        detail = f"as a Kafka topic {shown(name)} has {len(topic)} characters, at most {KAFKA_TOPIC_MAX} are allowed"
        return Refusal(Reason.NAME_NOT_EXPRESSIBLE, detail)
    return topic


def from_kafka(topic: str) -> str | Refusal:
    """The name a Kafka topic stands for. Strict: only what ``to_kafka`` writes, so no two topics are one channel."""
    if not _KAFKA_TOPIC.fullmatch(topic):
        detail = f"a Kafka topic has 1 to {KAFKA_TOPIC_MAX} characters of A-Z a-z 0-9 . _ -, not {shown(topic)}"
        return Refusal(Reason.NAME_INVALID, detail)
    try:
        name = "/".join([_kafka_level(part) for part in topic.split(".")])
    except UnicodeDecodeError:
        return Refusal(Reason.NAME_INVALID, f"Kafka topic {shown(topic)} escapes bytes that are not UTF-8")
    if to_kafka(name) != topic:
        return Refusal(Reason.NAME_INVALID, f"Kafka topic {shown(topic)} has an empty part or an escape never written")
    return check_name(name) or name


def kafka_channel(topic: str) -> str | Refusal:
    """The channel a Kafka client means: the dotted spelling, or the channel's own name, which clients take as well.

    A name that is neither is refused for what is wrong with its dotted spelling.
    """
    dotted = from_kafka(topic)
    if not isinstance(dotted, Refusal) or "/" not in topic:
        return dotted
    spelt = to_kafka(topic)
    return spelt if isinstance(spelt, Refusal) else check_name(topic) or topic


def _kafka_escape(found: re.Match[str]) -> str:
    return "".join([f"_x{byte:02x}" for byte in found[0].encode()])


def _kafka_level(part: str) -> str:
    if part == "_x":
        return ""
    return _KAFKA_ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), part.encode()).decode()


# -- NATS ----------------------------------------------------------------------------------------


def to_nats(name: str) -> str | Refusal:
    """The NATS subject of a legal name: ``factory/line1/temp`` is ``factory.line1.temp``.

    As nats-server spells MQTT topics: a dot within a level is ``//``, an empty level is ``/``. A subject has no white
    space, and a level that is ``*`` or ``>`` would be a wildcard: those names have none.
    """
    if _NATS_ILLEGAL.search(name) or not {"*", ">"}.isdisjoint(name.split("/")):
        detail = f"a NATS subject has no white space and no level * or >, so it cannot be {shown(name)}"
        return Refusal(Reason.NAME_NOT_EXPRESSIBLE, detail)
    return ".".join([level.replace(".", "//") or "/" for level in name.split("/")])


def from_nats(subject: str) -> str | Refusal:
    """The name a NATS subject stands for. Strict: only what ``to_nats`` writes, so no two subjects are one channel."""
    levels: list[str] = []
    for token in subject.split("."):
        level = "" if token == "/" else token.replace("//", ".")
        if not token or "/" in level:
            detail = f"a NATS subject with a channel of its own has no empty token and no single /: {shown(subject)}"
            return Refusal(Reason.NAME_INVALID, detail)
        levels.append(level)
    name = "/".join(levels)
    refusal = check_name(name)
    if refusal is None and to_nats(name) != subject:
        refusal = Refusal(Reason.NAME_INVALID, f"NATS subject {shown(subject)} is never written for a channel")
    return refusal or name


# -- HTTP paths, MCP resource URIs, one level -------------------------------------------------------


def to_path(name: str) -> str | None:
    """The URL path of a legal name, each level percent-encoded; None if a path cannot hold it (then ``?name=`` must).

    HTTP clients fold ``.`` and ``..`` levels even when their dots are percent-encoded, and proxies merge empty ones.
    """
    levels = name.split("/")
    if "" in levels or "." in levels or ".." in levels:
        return None
    return "/".join([quote(level, safe="") for level in levels])


def from_path(path: str) -> str | Refusal:
    """The name a raw (still percent-encoded) path tail stands for. Which characters were encoded does not matter."""
    levels: list[str] = []
    for raw in path.split("/"):
        level = _percent_decoded(raw)
        if isinstance(level, Refusal):
            return level
        if level in ("", ".", "..") or "/" in level:
            detail = f"a path does not carry the level {shown(raw)} safely; write the name as ?name="
            return Refusal(Reason.NAME_INVALID, detail)
        levels.append(level)
    name = "/".join(levels)
    return check_name(name) or name


def to_uri(name: str) -> str:
    """The MCP resource URI of a legal name: ``channel:///factory/line1/temp``.

    Names that a path cannot hold are ``channel:///?name=…``, since URI parsers fold dot segments in any scheme.
    """
    path = to_path(name)
    return _URI_QUERY + quote(name, safe="") if path is None else _URI_ROOT + path


def from_uri(uri: str) -> str | Refusal:
    """The name a resource URI stands for, in either form."""
    if uri.startswith(_URI_QUERY):
        name = _percent_decoded(uri[len(_URI_QUERY) :])
        return name if isinstance(name, Refusal) else check_name(name) or name
    if not uri.startswith(_URI_ROOT):
        return Refusal(Reason.NAME_INVALID, f"a channel's URI starts with {_URI_ROOT}, not {shown(uri)}")
    return from_path(uri[len(_URI_ROOT) :])


def to_level(text: str) -> str:
    """A checked name or agent id as one level, for verbs, ``$mesh``, URLs: what is not ``[A-Za-z0-9_.~-]`` is ``%HH``.

    The result is never empty, holds no ``/``, ``+`` or ``#`` and does not start with ``$``. ``.`` and ``..`` get a
    trailing ``%FF``: URL parsers fold them in any other form, and FF is no byte of UTF-8, so nothing else reads so.
    """
    assert text, "an empty level cannot be told from no level"
    return f"{text}%FF" if text in (".", "..") else quote(text, safe="")


def from_level(level: str) -> str | Refusal:
    """What one percent-encoded level stands for; the caller checks it as the name or agent id it should be.

    Which characters were encoded does not matter, since people write these levels by hand.
    """
    if not level or "/" in level:
        return Refusal(Reason.NAME_INVALID, f"one level has at least one character and no /, not {shown(level)}")
    dots = _DOTS.fullmatch(level)
    return dots[1] if dots else _percent_decoded(level)


def _percent_decoded(text: str) -> str | Refusal:
    if _BAD_PERCENT.search(text):
        return Refusal(Reason.NAME_INVALID, f"a % is not followed by two hexadecimal digits in {shown(text)}")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        return Refusal(Reason.NAME_INVALID, f"{shown(text)} is not UTF-8 once its percent-encoding is undone")


# -- MCP tool names --------------------------------------------------------------------------------


def tool_name(skill: str, identity: str, taken: Container[str]) -> str:
    """An MCP tool name for a skill: its own name if that is legal and free, else a likeness of it with a digest.

    ``identity`` tells the skill from others of its name (``cards.skill_key``). The same arguments always give the
    same name. It cannot be read back: the caller keeps the table, and gives the plain name to who came first.
    """
    plain = _TOOL_REPLACED.sub("_", skill)
    if plain == skill and 0 < len(skill) <= TOOL_NAME_MAX and skill not in taken:
        return skill
    stem = plain.strip("_-") or "skill"
    digest = sha256(identity.encode()).hexdigest()
    for chars in range(_DIGEST_CHARS, TOOL_NAME_MAX - 1, _DIGEST_CHARS):
        name = f"{stem[: TOOL_NAME_MAX - 1 - chars]}_{digest[:chars]}"
        if name not in taken:
            return name
    raise AssertionError(f"every tool name for {identity!r} is taken: one identity was named twice")
