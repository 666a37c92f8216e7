"""CloudEvents 1.0 whose attributes are headers, as in every protocol's binary mode. Knows no protocol."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from dragoman.routing.message import Header


class EventFacts(NamedTuple):
    """What an event's attributes say that an envelope has a place for. The attributes themselves stay headers."""

    key: bytes | None = None
    sent_ms: int | None = None


NO_FACTS: Final = EventFacts()


def event_facts(headers: Iterable[Header]) -> EventFacts:
    """The partition key and the sender's clock of an event; nothing if the headers are no event's."""
    said: dict[str, bytes] = {}
    for name, value in headers:
        if value is not None:
            said.setdefault(name, value)
    if "specversion" not in said:
        return NO_FACTS
    return EventFacts(said.get("partitionkey"), _instant(said.get("time", b"")))


def _instant(value: bytes) -> int | None:
    """``time`` where it is a legal instant. ``fromisoformat`` takes more than RFC 3339 does, which harms nobody."""
    try:
        at = datetime.fromisoformat(value.decode())
        return int(at.timestamp() * 1000) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
