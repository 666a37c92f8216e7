"""Topic rewrite (``[[mqtt.rewrite]]``): what a client names becomes something else, before anything else is asked.

Rules are read in the order of the file; the first whose source matches decides, also if its expression does not
match, which leaves the name as it is. Wildcards of a client's filter are text like any other: ``#`` fits ``(.+)``. Of
``$share/g/a``, ``$exclusive/a``, ``$delayed/5/a`` and the like only ``a`` is looked at. Rewritten once, not again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from dragoman.adapters.mqtt import patterns
from dragoman.broker.settings_key import key, required
from dragoman.routing.names import check_filter, matches, shown
from dragoman.routing.refusals import Reason, Refusal

PREFIXED: Final = re.compile(r"\$(?:(?:share|queue|stream|s|delayed)/[^/]*/|(?:exclusive|q)/)")
"""What may stand before the name that a rule looks at."""

_PART: Final = re.compile(r"\$(\d+)|%([%cu])|%|\$|[^%$]+")
_UNFIT: Final = "/+#\x00"

Part: TypeAlias = str | int
"""Of a target: text, the number of a group, or one of ``CLIENT`` and ``USER``."""

CLIENT: Final = -1
USER: Final = -2


def _source_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if PREFIXED.match(value):
        return f"{value!r}: leave out what stands before the topic, it is not looked at"
    refusal = check_filter(value)
    return None if refusal is None else refusal.detail


def _regex_problem(value: object) -> str | None:
    assert isinstance(value, str)
    return patterns.problem(value)


def _target_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if not value:
        return "an empty topic is none"
    if any(found[0] == "%" for found in _PART.finditer(value)):
        return f"{value!r}: after % comes c (the client id), u (the user) or another %"
    return None


@dataclass(frozen=True, slots=True)
class RewriteSettings:
    """What clients' topics become. The first rule whose source matches decides, in the order of the file."""

    source: str = required(example="old/#", why="a filter: the topics and filters this is about", check=_source_problem)
    regex: str = required(
        example="^old/(.+)$", why="what is taken from them; $1, $2 are its groups", check=_regex_problem
    )
    target: str = required(
        example="new/%c/$1", why="what they become; %c is the client id, %u the user", check=_target_problem
    )
    action: str = key("all", choices=("all", "publish", "subscribe"), why="subscribe is UNSUBSCRIBE as well")

    def __post_init__(self) -> None:
        """The target speaks of groups that there are."""
        groups = re.compile(self.regex).groups
        for part in _parts(self.target):
            if isinstance(part, int) and not (part < 0 or 0 < part <= groups):
                raise ValueError(f"target {self.target!r} speaks of ${part}, regex {self.regex!r} has {groups} groups")


@final
class Rule:
    """A rule, ready for use."""

    __slots__ = ("number", "parts", "regex", "source")

    def __init__(self, number: int, settings: RewriteSettings) -> None:
        self.number = number
        self.source = settings.source
        self.regex = patterns.compiled(settings.regex)
        self.parts = _parts(settings.target)


@final
class Rewrites:
    """The rules of a mesh, by what they are for. ``bytes_max``: no expression sees a longer name."""

    __slots__ = ("_bytes_max", "publishes", "subscribes")

    def __init__(self, settings: Sequence[RewriteSettings], bytes_max: int) -> None:
        rules = [(Rule(number, each), each.action) for number, each in enumerate(settings, start=1)]
        self._bytes_max = bytes_max
        self.publishes = tuple(rule for rule, action in rules if action != "subscribe")
        self.subscribes = tuple(rule for rule, action in rules if action != "publish")

    def topic(self, name: str, client_id: str, user: str) -> str | Refusal:
        """What a topic becomes that the client publishes to."""
        return self._rewritten(self.publishes, name, client_id, user, Reason.NAME_INVALID)

    def filter(self, text: str, client_id: str, user: str) -> str | Refusal:
        """What a filter of the client's becomes. Neither is checked here."""
        return self._rewritten(self.subscribes, text, client_id, user, Reason.FILTER_INVALID)

    def _rewritten(self, rules: Sequence[Rule], text: str, client_id: str, user: str, reason: Reason) -> str | Refusal:
        before = PREFIXED.match(text)
        prefix = before.group() if before else ""
        name = text[len(prefix) :]
        rule = next((rule for rule in rules if matches(rule.source, name)), None)
        if rule is None:
            return text
        if len(name.encode()) > self._bytes_max:
            detail = f"rewrite rule {rule.number} looks at no topic beyond mqtt.rewrite_bytes_max, {self._bytes_max}"
            return Refusal(reason, detail)
        found = rule.regex.search(name)
        if found is None:
            return text
        for whom, value in ((CLIENT, client_id), (USER, user)):
            if whom in rule.parts and (not value or any(sign in value for sign in _UNFIT)):
                return Refusal(
                    reason, f"rewrite rule {rule.number} needs {shown(value)} as a level, which it cannot be"
                )
        words = {CLIENT: client_id, USER: user}
        made = (part if isinstance(part, str) else words.get(part) or found[part] or "" for part in rule.parts)
        return prefix + "".join(made)


def _parts(target: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    for found in _PART.finditer(target):
        if found[1] is not None:
            parts.append(int(found[1]))
        elif found[2] is not None:
            parts.append("%" if found[2] == "%" else CLIENT if found[2] == "c" else USER)
        else:
            parts.append(found[0])
    return tuple(parts)
