"""Saying something over HTTP, whichever of its ways it came: published, confirmed, and where it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dragoman.adapters.http.session import RequestSession
from dragoman.routing.names import check_name, shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.routing.message import Message

IDEMPOTENCY_KEY_MAX: Final = 255
"""Characters. Stripe allows as many; a UUID has 36."""


async def publish(
    broker: Broker, session: RequestSession, message: Message, idempotency_key: str | None, within_ms: int
) -> None:
    """Publishes and waits until the message is as safe as its channel makes it. Raises RefusedError."""
    envelope = message.envelope
    if envelope is not None and envelope.reply_to is not None:
        fault = check_name(envelope.reply_to)
        if fault is not None:
            raise RefusedError(Refusal(fault.reason, f"the reply-to names no channel: {fault.detail}"))
        message.envelope = broker.verbs.absolute(session, envelope)
    dedupe = None
    if idempotency_key is not None:
        if not 0 < len(idempotency_key) <= IDEMPOTENCY_KEY_MAX:
            detail = f"an idempotency key has 1 to {IDEMPOTENCY_KEY_MAX} characters, not {shown(idempotency_key)}"
            raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, detail))
        # The channel is part of it: a client that counts its requests from one in each channel means no duplicates.
        dedupe = (f"http\0{session.principal.name}\0{session.agent}\0{message.name}", idempotency_key)
    ticket = broker.publish(session, message, dedupe)
    if isinstance(ticket, Refusal):
        raise RefusedError(ticket)
    await session.settled(ticket, within_ms)


def kept(broker: Broker, message: Message) -> str:
    """``log`` if the message survives the mesh, ``memory`` if not. Ask after its commit."""
    if not broker.log.durable:
        return "memory"
    first, after = broker.log.bounds(message.number)
    return "log" if message.position or first <= message.offset < after else "memory"
