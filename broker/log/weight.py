"""How many bytes a message counts for. One rule for every budget and for what a channel is said to keep."""

from __future__ import annotations

from typing import Final

from dragoman.routing.message import Message

STORED_OVERHEAD: Final = 64
"""Bytes a stored message costs beside its own: offset, time, position, its share of batch head and index row."""

_ENVELOPE_OVERHEAD: Final = 32


def weight(message: Message) -> int:
    """Bytes of payload, sender and envelope, plus what storing one message costs."""
    payload = message.payload
    total = STORED_OVERHEAD + len(message.sender)
    if payload is not None:
        total += len(payload)
    if message.envelope is not None:
        total += envelope_weight(message)
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
