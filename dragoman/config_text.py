"""``configs/full.toml``, written from the definitions, so that it cannot say anything else than they do."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dragoman.broker.settings_key import About
from dragoman.config import Config
from dragoman.config_reader import NONE, Entry, bounds, entries, row_kind, tables

WIDTH: Final = 110

_HEAD: Final = """\
# Every key of Dragoman's configuration, at its default, with its unit, the values allowed and the reason.
# Nothing here has to be set: copy the lines you want to change. `dragoman check FILE` explains every mistake
# in a file at once; `/v1/admin/config` tells which value is in force and where it came from.
# What is marked "live" a running mesh takes over on SIGHUP or POST /v1/admin/reload, together with whatever is in
# the files of TLS; the rest waits for its next start, and the mesh says so.
# This file is written by `dragoman check --full`; a test keeps it true.
"""


def full_text() -> str:
    """The whole file."""
    lines = [_HEAD]
    lines.extend(_table(Config, ""))
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(kind: type, path: str) -> Iterator[str]:
    found = list(entries(kind))
    plain = [entry for entry in found if row_kind(entry.hint) is None]
    if path and plain:
        yield ""
        yield from _comment(_first_line(kind), "# ")
        yield f"[{path}]"
    for entry in plain:
        yield from _comment(_about(entry), "# ")
        yield f"{entry.name} = {toml_value(entry.default)}"
        yield ""
    for entry in found:
        inner = row_kind(entry.hint)
        if inner is not None:
            yield from _array(entry, inner, f"{path}.{entry.name}" if path else entry.name)
    for name, table in tables(kind):
        yield from _table(table, f"{path}.{name}" if path else name)


def _array(entry: Entry, kind: type, path: str) -> Iterator[str]:
    """An array of tables has no default to show, so one row of it stands here as an example, commented out."""
    yield from _comment(f"{'[live] ' * entry.about.live}{_sentence(entry.about.why)} {_first_line(kind)}", "# ")
    yield f"# [[{path}]]"
    for inner in entries(kind):
        yield from _comment(_about(inner), "#   # ")
        yield f"# {inner.name} = {_example(inner)}"
    yield ""


def _example(entry: Entry) -> str:
    """What stands for a key where an example is shown. Rows within a row are one, on one line."""
    kind = row_kind(entry.hint)
    if kind is not None:
        return "[{ " + ", ".join(f"{inner.name} = {_example(inner)}" for inner in entries(kind)) + " }]"
    return toml_value(entry.about.example if entry.default is dataclasses.MISSING else entry.default)


def _about(entry: Entry) -> str:
    about = entry.about
    facts = "; ".join(fact for fact in (_unit(about, entry.default), _allowed(about), "live" * about.live) if fact)
    others = f" Elsewhere: {about.peers.rstrip('.')}." if about.peers else ""
    return f"{f'[{facts}] ' if facts else ''}{_sentence(about.why)}{others}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _unit(about: About, default: object) -> str:
    if about.unit == "bytes" and isinstance(default, int) and default >= 1024:
        for shift, name in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
            if default % (1 << shift) == 0:
                return f"bytes; {default >> shift} {name}"
    return about.unit


def _allowed(about: About) -> str:
    if about.choices:
        return " or ".join(f'"{choice}"' for choice in about.choices)
    return bounds(about).removeprefix(",").strip()


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _comment(text: str, start: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
    )


def toml_value(value: object) -> str:
    """A value as TOML. None is the text "none"."""
    match value:
        case None:
            return json.dumps(NONE)
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:_}" if abs(value) >= 10_000 else str(value)
        case float():
            return repr(value)
        case Path():
            return json.dumps(str(value))
        case tuple():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case str():
            return json.dumps(value, ensure_ascii=False)
    raise AssertionError(f"no setting has a value like {value!r}")
