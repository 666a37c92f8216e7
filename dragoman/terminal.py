"""What a person sees of a mesh in a terminal. Nothing a peer chose commands the terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, Final, final

FACT_CHARS_MAX: Final = 1_000
"""Of one fact of a log line; an MQTT client's id may have 64 KiB."""

_OWN: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
"""What every record has; all else is what ``extra`` gave it."""


@final
class LogLines(logging.Formatter):
    """A record as a line: when, how grave, who, what, and each fact of its ``extra`` as ``key=value``.

    Facts and messages may have a peer's words in them. None of it can end the line, pass for another fact or
    command the terminal; what follows the line, a traceback, is indented, so it looks like no line of its own.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without what follows it."""
        facts = "".join(f" {key}={_fact(value)}" for key, value in vars(record).items() if key not in _OWN)
        return _escaped(super().formatMessage(record)) + facts

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback if there is one."""
        first, *others = super().format(record).split("\n")
        return "\n  ".join((first, *map(_escaped, others)))


def _fact(value: object) -> str:
    text = str(value)
    left_out = "…" if len(text) > FACT_CHARS_MAX else ""
    text = text[:FACT_CHARS_MAX]
    if text and text.isprintable() and not any(sign in text for sign in ' ="\\'):
        return text + left_out
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escaped(quoted)}"{left_out}'


def _escaped(text: str) -> str:
    """Printable, and still says what it was: ``\\n``, ``\\x1b``, ``\\u202e``."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def print_agents(found: list[dict[str, Any]]) -> None:
    """Agents as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dragoman.remote import skills_of

    table = Table(box=None, pad_edge=False)
    for title in ("agent", "state", "via", "load", "skills"):
        table.add_column(title, overflow="fold")
    for agent in found:
        limit = agent.get("work_limit")
        load = f"{agent.get('load', 0)}" + (f"/{limit}" if limit is not None else "")
        cells = (agent["agent"], agent["state"], agent.get("via", ""), load, ", ".join(skills_of(agent)))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    # A pipe has no width; what reads it wants whole lines.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def write(content: bytes) -> None:
    """Bytes for whatever reads standard output: as they are, unless it is a terminal."""
    out = sys.stdout.buffer
    out.write(printable(content.decode("utf-8", "replace"), also="\n\t").encode() if sys.stdout.isatty() else content)
    out.flush()


def write_json(value: object) -> None:
    """A document for whatever reads standard output."""
    write(json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n")


def say(text: str) -> None:
    """A line on standard output that its writer outlives: whoever read it may be gone."""
    try:
        print(text, flush=True)
    except OSError:
        silence()


def silence() -> None:
    """Nobody reads standard output any more; without this Python would complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str, *, also: str = "") -> str:
    """Names and payloads come from anyone; a terminal obeys what is in them. ``also`` may pass unprintable."""
    return "".join(sign if sign.isprintable() or sign in also else "\N{REPLACEMENT CHARACTER}" for sign in text)
