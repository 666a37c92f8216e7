"""What a person sees of a mesh in a terminal. Nothing a peer chose commands the terminal."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


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
