"""What a rule of the gate says and which names it speaks of. Pure: filters against names, filters against filters.

A rule's filter is an MQTT filter whose levels may contain ``%c`` (the agent id) and ``%u`` (the
principal's name); ``%%`` is a percent sign. As everywhere, a filter that begins with a wildcard says
nothing about names that begin with ``$``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    from dragoman.broker.principal import Principal

Levels: TypeAlias = Sequence[str]

_UNFIT: Final = "/+#\x00"


def matches(rule: Levels, name: Levels) -> bool:
    """Whether the filter ``rule`` matches the name. The levels of ``name`` are text, whatever they contain."""
    if _hidden(rule, name):
        return False
    for index, level in enumerate(rule):
        if level == "#":
            return True
        if index == len(name) or (level != "+" and level != name[index]):
            return False
        if index == len(name) - 1 and len(rule) == index + 2 and rule[-1] == "#":
            return True  # `a/#` matches its parent `a`
    return len(rule) == len(name)


def covers(rule: Levels, asked: Levels) -> bool:
    """Whether every name that the filter ``asked`` matches is matched by the filter ``rule`` too."""
    if _hidden(rule, asked):
        return False
    if len(rule) == 2 and rule[0] == "+" and rule[1] == "#":
        return True  # `+/#` says the same as `#`
    for index, level in enumerate(rule):
        if level == "#":
            return True
        if index == len(asked):
            return False
        wanted = asked[index]
        if wanted == "#" or (level != "+" and level != wanted):
            return False
        if index == len(asked) - 1 and len(rule) == index + 2 and rule[-1] == "#":
            return True
    return len(rule) == len(asked)


def overlaps(rule: Levels, asked: Levels) -> bool:
    """Whether some name is matched by both filters."""
    if _hidden(rule, asked) or _hidden(asked, rule):
        return False
    for index in range(max(len(rule), len(asked))):
        mine = rule[index] if index < len(rule) else ""
        theirs = asked[index] if index < len(asked) else ""
        if index >= len(rule):
            return theirs == "#"
        if index >= len(asked):
            return mine == "#"
        if mine == "#" or theirs == "#":
            return True
        if mine != theirs and mine != "+" and theirs != "+":
            return False
    return True


def _hidden(rule: Levels, other: Levels) -> bool:
    return rule[0] in ("+", "#") and other[0].startswith("$")


def filter_problem(text: str) -> str | None:
    """What is wrong with a rule's filter, in a sentence; None if it is fine."""
    if not text:
        return "an empty filter matches nothing; write '#' for every name"
    levels = text.split("/")
    for index, level in enumerate(levels):
        if level == "#" and index != len(levels) - 1:
            return f"in {text!r} '#' stands before the end; it must be the last level"
        if level not in ("+", "#") and ("+" in level or "#" in level):
            return f"in {text!r} the level {level!r} mixes a wildcard with text; '+' and '#' stand alone in their level"
        rest = level.replace("%%", "").replace("%c", "").replace("%u", "")
        if "%" in rest:
            return f"in {text!r} the level {level!r} has a '%' that is not %c (agent id), %u (principal) or %% (a '%')"
    return None


@final
class Pattern:
    """A rule's filter, split once; ``for_whom`` puts agent and principal in where it names them."""

    __slots__ = ("_levels", "_personal")

    def __init__(self, text: str) -> None:
        problem = filter_problem(text)
        assert problem is None, problem
        self._levels: tuple[str, ...] = tuple(text.split("/"))
        self._personal = "%" in text

    def for_whom(self, principal: Principal, agent: str) -> Levels | None:
        """The filter's levels for this asker, or None if it cannot apply.

        A value that is empty, holds a separator or wildcard, or begins with ``$`` never goes into a filter, or
        a client called ``#`` would be given everything. Nobody vouched for the name of an anonymous one.
        """
        if not self._personal:
            return self._levels
        user = "" if principal.anonymous else principal.name
        levels: list[str] = []
        for level in self._levels:
            expanded = _expand(level, agent, user) if "%" in level else level
            if expanded is None:
                return None
            levels.append(expanded)
        return levels


def _expand(level: str, agent: str, user: str) -> str | None:
    parts: list[str] = []
    index = 0
    while index < len(level):
        if level[index] != "%":
            parts.append(level[index])
            index += 1
            continue
        letter = level[index + 1]
        value = "%" if letter == "%" else agent if letter == "c" else user
        if not value or value.startswith("$") or any(sign in value for sign in _UNFIT):
            return None
        parts.append(value)
        index += 2
    return "".join(parts)


@final
class Rule:
    """One rule, ready to be asked: who, which actions (a bit set of ``1 << Action``), which names, yes or no."""

    __slots__ = ("actions", "allow", "patterns", "text", "who")

    def __init__(self, *, allow: bool, who: Sequence[str], actions: int, filters: Sequence[str], text: str) -> None:
        self.allow = allow
        self.actions = actions
        self.who = tuple(who)
        self.patterns = [Pattern(text) for text in filters]
        self.text = text

    def concerns(self, principal: Principal, bit: int) -> bool:
        """Whether it speaks of this principal and an action."""
        return self.actions & bit != 0 and names(self.who, principal)


def names(who: Sequence[str], principal: Principal) -> bool:
    """Whether a list of principals, ``@group``s and ``*`` names this one."""
    return any(
        word == "*" or word == principal.name or (word.startswith("@") and word[1:] in principal.groups) for word in who
    )
