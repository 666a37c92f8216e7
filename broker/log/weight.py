"""How many bytes a message counts for. One rule for every budget and for what a channel is said to keep."""

from __future__ import annotations

from typing import Final

from dragoman.routing.message import Bundle, Entry, Message

STORED_OVERHEAD: Final = 64
"""Bytes a stored message costs beside its own: offset, time, position, its share of batch head and index row."""

_ENVELOPE_OVERHEAD: Final = 32


def weight(entry: Entry) -> int:
    """Bytes of payload, sender and envelope, or of a bundle's body, plus what storing one entry costs."""
    total = STORED_OVERHEAD + len(entry.sender)
    if isinstance(entry, Bundle):
        return total + len(entry.body)
    if entry.payload is not None:
        total += len(entry.payload)
    if entry.envelope is not None:
        total += envelope_weight(entry)
    return total


def envelope_weight(message: Message) -> int:
    """Bytes of the optional facts; 0 if there are none. Text counts its characters: near enough for a budget."""
    envelope = message.envelope
    if envelope is None:
        return 0
    total = _ENVELOPE_OVERHEAD + len(envelope.raw)
    if envelope.key is not None:
        total += len(envelope.key)
    if envelope.correlation is not None:
        total += len(envelope.correlation)
    for text in (envelope.content_type, envelope.reply_to, envelope.cause):
        if text is not None:
            total += len(text)
    for name, value in envelope.headers:
        total += len(name) + 4 + (len(value) if value is not None else 0)
    return total
