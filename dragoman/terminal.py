"""What a person sees of a mesh in a terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dragoman.remote import skills_of


def print_agents(found: list[dict[str, Any]]) -> None:
    """Agents as a table."""
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


def printable(text: str) -> str:
    """Names come from anyone; a terminal obeys what is in them."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
