"""How a message that goes round is recognised: what it says of the meshes it has been in. Pure.

``mesh-via``     the meshes it was in before a link, oldest first, with commas: one that is there does not get it again
``mesh-origin``  its first mesh and its id there: whatever ways it comes by, it is taken once for each channel
``mesh-hops``    ends of links it passed: the bound for what strips the others

All three are headers, so they stay with the message over restarts and through carriers that know nothing of them.
"""

from __future__ import annotations

from typing import Final

from dragoman.routing.message import EMPTY, Envelope, Header, Message
from dragoman.routing.origins import ORIGIN, origin_in

VIA: Final = "mesh-via"


def was_in(envelope: Envelope, mesh: str) -> bool:
    """Whether the message says that it has been in this mesh."""
    return mesh.encode() in (envelope.header(VIA) or b"").split(b",")


def went_round(envelope: Envelope, mesh: str, hops_max: int) -> str | None:
    """Why a message is not to be taken in, as a reason to count; None if it is."""
    if was_in(envelope, mesh):
        return "link-loop"
    return "link-hops" if envelope.hops >= hops_max else None


def further(envelope: Envelope, far: str) -> Envelope:
    """The envelope of what has come in over a link. ``far``: the mesh it comes from; "" if the outside is none."""
    return _copy(envelope, _through(envelope, far) if far else envelope.headers)


def leaving(message: Message, mesh: str) -> Envelope:
    """The envelope of a message that goes out from this mesh over a link."""
    envelope = message.envelope or EMPTY
    headers = _through(envelope, mesh)
    first = origin_in(message, mesh)
    if first is not None:
        headers = (*headers, (ORIGIN, first.encode()))
    return _copy(envelope, headers)


def _through(envelope: Envelope, mesh: str) -> tuple[Header, ...]:
    if was_in(envelope, mesh):
        return envelope.headers
    via = envelope.header(VIA)
    said = via + b"," + mesh.encode() if via else mesh.encode()
    return (*(header for header in envelope.headers if header[0] != VIA), (VIA, said))


def _copy(envelope: Envelope, headers: tuple[Header, ...]) -> Envelope:
    """One hop further, and without the sender's own bytes, which would say otherwise."""
    return Envelope(
        sent_ms=envelope.sent_ms,
        key=envelope.key,
        headers=headers,
        content_type=envelope.content_type,
        reply_to=envelope.reply_to,
        correlation=envelope.correlation,
        expires_ms=envelope.expires_ms,
        cause=envelope.cause,
        hops=envelope.hops + 1,
        text=envelope.text,
    )
