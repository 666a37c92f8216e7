"""Which regular expressions may look at topics of strangers: those that cannot take for ever, whatever the topic.

What an expression tries grows with the ways to divide a text among its repeats. A repeat within a repeat makes that
exponential, so it is refused, as are back references. A repeat whose end is settled costs nothing: ``[^/]+`` before a
``/``, ``.+`` at the end. Each other one multiplies by the length of the text, each ``?`` by two and each choice by
its alternatives: all of it may not be more than two open repeats are.
"""

from __future__ import annotations

import re
from typing import Final

LENGTH: Final = 512
"""What a repeat that may end in several places counts; an expression that may begin anywhere is one as well."""

WAYS_MAX: Final = LENGTH**2
"""Ways to try a text: two such repeats, or one and nine ``?``."""

_TOKEN: Final = re.compile(
    r"""(?P<times> \{\d+\} )
      | (?P<repeat> (?: [*+] | \{\d*,?\d*\} ) [?+]? )
      | (?P<maybe> \?[?+]? )
      | (?P<open> \((?:\?:)? )
      | (?P<close> \) )
      | (?P<mark> [|^$] )
      | (?P<atom> \\. | \[\^?\]?(?:\\.|[^\]\\])*\] | . )""",
    re.VERBOSE | re.DOTALL,
)
_BEGIN: Final = ("mark", "^")
_SPECIAL: Final = frozenset(".[\\")


def problem(pattern: str) -> str | None:
    """What is wrong with an expression, as a sentence; None if it may be used."""
    try:
        compiled(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"{pattern!r} is no regular expression: {error}"
    tokens: list[tuple[str, str]] = []
    for found in _TOKEN.finditer(pattern):
        assert found.lastgroup is not None
        if found.lastgroup == "maybe" and tokens and tokens[-1][0] == "open":
            return f"{pattern!r}: of the special forms only (?:...) is taken"
        tokens.append((found.lastgroup, found.group()))
    return _too_slow(pattern, tokens)


def compiled(pattern: str) -> re.Pattern[str]:
    """The expression as it is used: a dot is any sign, so that what ends in ``.+$`` always fits at the first try."""
    return re.compile(pattern, re.DOTALL)


def _too_slow(pattern: str, tokens: list[tuple[str, str]]) -> str | None:
    """Counts the ways there are."""
    varied, choices = [False], [1]
    last = False
    ways = 1
    # Each choice of the whole says for itself where it begins.
    anywhere = tokens[:1] != [_BEGIN]
    for at, (kind, text) in enumerate(tokens):
        if kind == "atom":
            if text[0] == "\\" and text[1] in "123456789":
                return f"{pattern!r}: back references can take for ever"
            last = False
        elif kind == "open":
            varied.append(False)
            choices.append(1)
        elif kind == "close":
            last = varied.pop()
            varied[-1] = varied[-1] or last
            ways *= choices.pop()
        elif kind in ("repeat", "times"):
            if last:
                return f"{pattern!r}: a repeat or a choice within a repeat can take for ever; write it without"
            varied[-1] = varied[-1] or kind == "repeat"
            ways *= _repeats(tokens, at)
        elif kind == "maybe" or text == "|":
            varied[-1] = True
            ways *= 2 if kind == "maybe" else 1
            choices[-1] += text == "|"
            anywhere |= text == "|" and len(choices) == 1 and tokens[at + 1 : at + 2] != [_BEGIN]
    if ways * choices[0] * (LENGTH if anywhere else 1) > WAYS_MAX:
        return (
            f"{pattern!r} can take too long: begin it with ^, write [^/]+ before a / instead of .+, so that at most "
            "two of its repeats may end in several places, and use few of ? and |"
        )
    return None


def _repeats(tokens: list[tuple[str, str]], at: int) -> int:
    """What a repeat multiplies the ways by."""
    ways = LENGTH if tokens[at][0] == "repeat" and not _settled(tokens, at) else 1
    if tokens[at - 1][0] != "close":
        return ways
    # A group may match nothing, as often as it is told to.
    return max(ways, *(int(number) for number in re.findall(r"\d+", tokens[at][1])), 1)


def _settled(tokens: list[tuple[str, str]], at: int) -> bool:
    """Whether what follows a repeat says where it ends."""
    kind, atom = tokens[at - 1]
    if kind != "atom":
        return False
    after = [token for token in tokens[at + 1 :] if token[0] != "close"]
    if atom == "." and tokens[at][1] in ("*", "+") and after in ([], [("mark", "$")]):
        return True
    if not after or after[0][0] != "atom" or after[0][1][0] in _SPECIAL:
        return False
    # The next sign must come, and cannot be part of the repeat.
    optional = len(after) > 1 and after[1][0] in ("maybe", "repeat", "times") and after[1][1][0] != "+"
    return not optional and re.fullmatch(atom, after[0][1]) is None
