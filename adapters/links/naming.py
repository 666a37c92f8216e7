"""From the name of a message on one side of a link to its name on the other: filters, what they catch, templates.

Inside, names and filters are the mesh's. Outside they are MQTT's (the same), NATS's subjects or Kafka's topics.
A template is text with ``{name}`` for the whole name and ``{1}``, ``{2}``… for what each wildcard (Kafka: each
group of the regular expression) stood for, written in the spelling of the side it is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias, final

from dragoman.routing.names import check_filter, check_name, from_kafka, from_nats, to_kafka, to_nats
from dragoman.routing.refusals import Reason, Refusal

Spell: TypeAlias = Callable[[str], str | Refusal]

_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_TOPIC: Final = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9._-]{1,249}")
_SUBJECT: Final = re.compile(r"[^\x00-\x20\x7f.]+(\.[^\x00-\x20\x7f.]+)*")


class RuleError(ValueError):
    """A filter or template that cannot work. The text is a sentence."""


def _same(name: str) -> str:
    return name


def _name_of_topic(topic: str) -> str:
    """The channel a foreign topic stands for. One that is no spelling of ours, such as ``a..b``, keeps its own name."""
    name = from_kafka(topic)
    return topic if isinstance(name, Refusal) else name


def _topic_of(name: str) -> str | Refusal:
    return to_kafka(name) if name else "_x"


INWARD: Final[dict[str, Spell]] = {"mesh": _same, "mqtt": _same, "nats": from_nats, "kafka": _name_of_topic}
"""The mesh's spelling of an outside name."""

OUTWARD: Final[dict[str, Spell]] = {"mesh": _same, "mqtt": _same, "nats": to_nats, "kafka": _topic_of}
"""An outside's spelling of a name of the mesh."""

SEPARATORS: Final = {"mesh": "/", "mqtt": "/", "nats": ".", "kafka": "."}


@final
class Naming:
    """One route of a link. ``name_for`` is the whole of it; ``filter`` is as the side it is for writes it."""

    __slots__ = ("_catches", "_pieces", "_regex", "_source", "_target", "filter")

    def __init__(self, source: str, filter_: str, template: str, target: str) -> None:
        """``source`` and ``target``: "mesh" or the kind of the outside. Raises RuleError."""
        self.filter = filter_
        self._source = source
        self._target = target
        self._regex: re.Pattern[str] | None = None
        self._catches: list[str] = []
        if source == "kafka":
            count = self._topics(filter_)
        else:
            count = self._levels(filter_)
        self._pieces = _pieces(template, count)
        if not any(isinstance(piece, int) for piece in self._pieces):
            problem = _name_problem("".join(str(piece) for piece in self._pieces), target)
            if problem:
                raise RuleError(f"{template!r} is no name there: {problem}")

    def _topics(self, filter_: str) -> int:
        if not filter_.startswith("^"):
            if not _TOPIC.fullmatch(filter_):
                raise RuleError(f"{filter_!r} is neither a Kafka topic nor a regular expression, which begins with ^")
            self._regex = re.compile(re.escape(filter_))
            return 0
        try:
            self._regex = re.compile(filter_)
        except re.error as error:
            raise RuleError(f"{filter_!r} is no regular expression: {error}") from None
        return self._regex.groups

    def _levels(self, filter_: str) -> int:
        if self._source == "nats":
            if not _SUBJECT.fullmatch(filter_) or ">" in filter_.split(".")[:-1]:
                raise RuleError(f"{filter_!r} is no NATS subject")
            wild = {"*": "+", ">": "#"}
            self._catches = [wild.get(token) or _level_of(token) for token in filter_.split(".")]
        else:
            refusal = check_filter(filter_)
            if refusal is not None:
                raise RuleError(refusal.detail)
            self._catches = filter_.split("/")
        return sum(level in ("+", "#") for level in self._catches)

    def caught(self, name: str) -> list[str | None] | None:
        """What each wildcard stands for in a name, in the mesh's spelling; None if the filter does not match.

        ``name`` is the mesh's, but a topic for Kafka. A # that stands for no level at all has caught None.
        """
        if self._regex is not None:
            found = self._regex.fullmatch(name)
            return None if found is None else [_name_of_topic(text) if text else None for text in found.groups()]
        levels = name.split("/")
        if name.startswith("$") and self._catches[0] in ("+", "#"):
            return None
        rest = self._catches[-1] == "#"
        fixed = self._catches[:-1] if rest else self._catches
        if len(levels) < len(fixed) or (len(levels) > len(fixed) and not rest):
            return None
        caught: list[str | None] = []
        for want, level in zip(fixed, levels, strict=False):
            if want == "+":
                caught.append(level)
            elif want != level:
                return None
        if rest:
            caught.append("/".join(levels[len(fixed) :]) if len(levels) > len(fixed) else None)
        return caught

    def name_for(self, outside: str) -> str | Refusal | None:
        """The name over there of what is called so here; None if this route is not for it."""
        name = outside if self._regex is not None else INWARD[self._source](outside)
        if isinstance(name, Refusal):
            return name
        caught = self.caught(name)
        if caught is None:
            return None
        whole = _name_of_topic(name) if self._regex is not None else name
        text = self._filled([whole, *caught])
        if isinstance(text, Refusal):
            return text
        problem = _name_problem(text, self._target)
        return Refusal(Reason.NAME_NOT_EXPRESSIBLE, problem) if problem else text

    def _filled(self, values: list[str | None]) -> str | Refusal:
        spell, separator = OUTWARD[self._target], SEPARATORS[self._target]
        text = ""
        for piece in self._pieces:
            if isinstance(piece, str):
                text += piece
                continue
            value = values[piece]
            if value is None:
                # What stands for nothing takes the separator before it along.
                text = text.removesuffix(separator)
                continue
            spelt = spell(value)
            if isinstance(spelt, Refusal):
                return spelt
            text += spelt
        return text


def _level_of(token: str) -> str:
    level = from_nats(token)
    if isinstance(level, Refusal):
        raise RuleError(level.detail)
    return level


def _pieces(template: str, count: int) -> list[str | int]:
    """The template's text, and numbers for its fields: 0 is the whole name."""
    pieces: list[str | int] = []
    for at, part in enumerate(_FIELD.split(template)):
        if at % 2 == 0:
            if "{" in part or "}" in part:
                raise RuleError(f"{template!r} has a brace without its other half")
            pieces.extend([part] if part else [])
        elif part == "name":
            pieces.append(0)
        elif part.isascii() and part.isdigit() and 0 < int(part) <= count:
            pieces.append(int(part))
        else:
            known = "{name}" + "".join(f", {{{number}}}" for number in range(1, count + 1))
            raise RuleError(f"{{{part}}} in {template!r} means nothing; with this filter there are {known}")
    return pieces


def _name_problem(name: str, side: str) -> str | None:
    """Why this cannot be said there, as a sentence; None if it can."""
    if side == "kafka":
        return None if _TOPIC.fullmatch(name) else f"{name!r} is no Kafka topic"
    if side == "nats":
        sound = _SUBJECT.fullmatch(name) and {"*", ">"}.isdisjoint(name.split("."))
        return None if sound else f"{name!r} is no NATS subject"
    refusal = check_name(name)
    return None if refusal is None else refusal.detail
