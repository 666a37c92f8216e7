"""Where a message was first said, in words that linked meshes pass on: by it each takes a message in once. Pure."""

from __future__ import annotations

from typing import Final

from dragoman.routing.message import EMPTY, Envelope, Message

ORIGIN: Final = "mesh-origin"
"""The header that says so: a mesh, ``/``, and the message's id there."""

ORIGIN_BYTES_MAX: Final = 256


def origin_in(message: Message, mesh: str) -> str | None:
    """What to tell of a message of this mesh's own; None if it says so already, or has no place."""
    if (message.envelope or EMPTY).header(ORIGIN) is not None or not message.number:
        return None
    return f"{mesh}/{message.id}"


def once(envelope: Envelope, name: str) -> tuple[str, str] | None:
    """By what the broker recognises, in the channel ``name``, what came by another way; None if nobody says."""
    value = envelope.header(ORIGIN)
    if not value or len(value) > ORIGIN_BYTES_MAX:
        return None
    return "links", f"{value.decode('utf-8', 'replace')} {name}"
