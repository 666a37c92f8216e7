"""From a TOML document to frozen settings, collecting everything that is wrong instead of stopping at the first.

Knows no setting: it walks whatever dataclasses it is given, by the ``About`` of their fields. A field
without one is not for the configuration; it keeps its default. A field that is itself a settings
dataclass is a table.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from dragoman.broker.settings_key import ABOUT, About

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

DEFAULT: Final = "default"
NONE: Final = "none"
"""How a key whose default is "nothing" is set to it: TOML has no word for it."""

_HEADER: Final = re.compile(r"\s*\[(\[?)\s*([^\[\]]+?)\s*\]")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_FENCE: Final = re.compile(r'"""|\'\'\'')
_SHOWN_MAX: Final = 60

INTEGER_MAX: Final = (1 << 63) - 1
"""TOML's own bound."""


class Fault(NamedTuple):
    """One thing that is wrong: where it stands, the dotted key ("" for the whole file), and a sentence."""

    place: str
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.text) if part)


class Entry(NamedTuple):
    """One key that can be configured."""

    name: str
    hint: Any
    about: About
    default: object


class _WrongError(Exception):
    """What was expected of a value, as the end of "must be …"; or, with ``whole``, a sentence of its own."""

    def __init__(self, text: str, *, whole: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.whole = whole


# -- what can be configured ------------------------------------------------------------------------


def entries(kind: type) -> Iterator[Entry]:
    """The keys of a table, in the order of their definition. ``default`` is ``MISSING`` for one that must be given."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        about = field.metadata.get(ABOUT)
        if about is not None:
            yield Entry(field.name, hints[field.name], about, field.default)


def tables(kind: type) -> Iterator[tuple[str, type]]:
    """The tables within a table."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield field.name, hint


def row_kind(hint: Any) -> type | None:
    """The dataclass of an array of tables, or None if the type is none."""
    arguments = get_args(hint)
    if get_origin(hint) is tuple and arguments and dataclasses.is_dataclass(arguments[0]):
        kind = arguments[0]
        assert isinstance(kind, type)
        return kind
    return None


def known_keys(kind: type, path: str = "") -> Iterator[str]:
    """Every dotted key below a table, without those of arrays of tables."""
    for entry in entries(kind):
        yield path + entry.name
    for name, table in tables(kind):
        yield from known_keys(table, f"{path}{name}.")


def places(text: str, file: str) -> dict[str, str]:
    """Dotted key → ``file:line`` of a TOML text. Rows of arrays of tables are counted: ``gate.rules[1].who``."""
    found: dict[str, str] = {}
    rows: dict[str, int] = {}
    prefix = ""
    fence = ""
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{file}:{number}"
        within = fence
        for mark in _FENCE.findall(line):
            fence = "" if mark == fence else fence or mark
        if within:
            continue  # the inside of a text of several lines may look like anything
        header = _HEADER.match(line)
        if header is not None:
            name = _dotted(header.group(2))
            if header.group(1):
                rows[name] = rows.get(name, 0) + 1
                name = f"{name}[{rows[name]}]"
            found.setdefault(name, place)
            prefix = name + "."
            continue
        key = _KEY.match(line)
        if key is not None:
            found.setdefault(prefix + _dotted(key.group(1)), place)
    return found


def _dotted(text: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in text.split("."))


# -- reading ---------------------------------------------------------------------------------------


class Reader:
    """Reads one document. ``faults``, ``origins`` and ``made`` (good tables, by path) fill while ``table`` walks."""

    def __init__(self, root: type, places: Mapping[str, str], file: str) -> None:
        self.faults: list[Fault] = []
        self.origins: dict[str, str] = {}
        self.made: dict[str, object] = {}
        self._places = places
        self._file = file
        self._known = list(known_keys(root))

    def table(self, kind: type[S], given: Mapping[str, object], path: str = "", base: object = None) -> S | None:
        """The settings of one table; None if something in it is wrong, which ``faults`` then explains.

        ``base`` has the values of fields that are not for the configuration, where they have no default.
        """
        before = len(self.faults)
        values: dict[str, object] = {}
        names: list[str] = []
        for entry in entries(kind):
            names.append(entry.name)
            key = path + entry.name
            if entry.name in given:
                self.origins[key] = self._places.get(key, self._file)
                self._value(entry, given[entry.name], key, values)
            elif entry.default is dataclasses.MISSING:
                self.fault(path.removesuffix("."), f"{entry.name!r} is missing: {entry.about.why}")
            else:
                self.origins[key] = DEFAULT
        for name, inner in tables(kind):
            names.append(name)
            within = given.get(name, {})
            if isinstance(within, dict):
                values[name] = self.table(inner, within, f"{path}{name}.", getattr(base, name, None))
            else:
                self.fault(path + name, f"must be a table, [{path}{name}], not {_shown(within)}")
        for name in given:
            if name not in names:
                self.fault(path + name, "there is no such key" + self._suggestion(path, name, names))
        if len(self.faults) > before:
            return None
        for field in dataclasses.fields(kind) if base is not None else ():
            values.setdefault(field.name, getattr(base, field.name))
        return self._made(kind, values, path)

    def fault(self, key: str, text: str) -> None:
        """Notes one thing that is wrong."""
        near = (key, key.rpartition(".")[0], key.partition("[")[0])
        place = next((self._places[name] for name in near if name in self._places), self._file)
        self.faults.append(Fault(place, key, text))

    def _made(self, kind: type[S], values: dict[str, object], path: str) -> S | None:
        try:
            made = self.made[path.removesuffix(".")] = kind(**values)
        except ValueError as error:
            self.fault(path.removesuffix("."), str(error))
            return None
        return made

    def _value(self, entry: Entry, value: object, key: str, values: dict[str, object]) -> None:
        rows = row_kind(entry.hint)
        about = entry.about
        converted: object
        try:
            if rows is not None:
                converted = self._rows(rows, value, key)
            else:
                converted = _converted(entry.hint, about, value)
        except _WrongError as wrong:
            seen = "" if wrong.whole else f", not {'what is given' if about.secret else _shown(value)}"
            self.fault(key, f"{'' if wrong.whole else 'must be '}{wrong.text}{seen}")
            return
        problem = about.check(converted) if about.check is not None else None
        if problem is not None:
            self.fault(key, problem)
        values[entry.name] = converted

    def _rows(self, kind: type, value: object, key: str) -> tuple[object, ...]:
        """Those that are good: what is wrong between them is found though another is wrong in itself."""
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise _WrongError(f"an array of tables, [[{key}]]")
        rows = [self.table(kind, row, f"{key}[{number}].") for number, row in enumerate(value, start=1)]
        return tuple(row for row in rows if row is not None)

    def _suggestion(self, path: str, name: str, names: list[str]) -> str:
        near = difflib.get_close_matches(name, names, 1)
        if near:
            return f"; did you mean {path}{near[0]}?"
        elsewhere = [key for key in self._known if key.rpartition(".")[2] == name]
        near = elsewhere or difflib.get_close_matches(path + name, self._known, 1, 0.75)
        return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(names)}"


# -- values ----------------------------------------------------------------------------------------


def _converted(hint: Any, about: About, value: object) -> object:
    if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
        if value == NONE:
            return None
        (inner,) = (argument for argument in get_args(hint) if argument is not type(None))
        try:
            return _converted(inner, about, value)
        except _WrongError as wrong:
            raise _WrongError(f'{wrong.text}, or "{NONE}"', whole=wrong.whole) from None
    if get_origin(hint) is tuple:
        return _many(get_args(hint)[0], about, value)
    expected = _expected(hint, about)
    if isinstance(value, int) and not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise _WrongError(expected)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, str) and "\0" in value:
        raise _WrongError(f"{expected} without NUL characters")
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _WrongError(expected)
    if isinstance(value, int | float) and not isinstance(value, bool) and not _within(value, about):
        raise _WrongError(expected)
    if about.choices and value not in about.choices:
        raise _WrongError(expected)
    return value


def _many(inner: Any, about: About, value: object) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _WrongError(f"an array of {_NOUNS[inner]}s in [ ]")
    for item in value:
        if not isinstance(item, inner) or isinstance(item, bool) or (isinstance(item, str) and "\0" in item):
            seen = "something else" if about.secret else _shown(item)
            raise _WrongError(f"must be an array of {_NOUNS[inner]}s; {seen} in it is none", whole=True)
    return tuple(value)


def _within(value: float, about: About) -> bool:
    if not math.isfinite(value):
        return False
    return (about.low is None or value >= about.low) and (about.high is None or value <= about.high)


_NOUNS: Final[dict[Any, str]] = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}


def _expected(hint: Any, about: About) -> str:
    if about.choices:
        return "one of " + ", ".join(f'"{choice}"' for choice in about.choices)
    if hint is bool:
        return _NOUNS[bool]
    if hint in (str, Path):
        return f"a {_NOUNS[hint]} in quotes"
    unit = f" ({about.unit})" if about.unit else ""
    return f"a {_NOUNS[hint]}{unit}{bounds(about)}"


def bounds(about: About) -> str:
    """The bounds of a number as the end of a phrase; "" if it has none."""
    if about.low is not None and about.high is not None:
        return f" from {about.low} to {about.high}"
    if about.low is not None:
        return f", {about.low} or more"
    return f", at most {about.high}" if about.high is not None else ""


def _shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            text = f'the text "{value}"'
        case dict():
            return "a table"
        case list():
            text = f"the array {value!r}"
        case _:
            text = str(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
