"""How an answer is written for a caller who has nothing but publish and subscribe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec

from dragoman.routing.message import Envelope, Header, Message, Wish

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.broker.call import Call, Outcome
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Feed
    from dragoman.routing.refusals import Refusal

STATUS: Final = "mesh-status"
ERROR: Final = "mesh-error"

JSON_TYPE: Final = "application/json"


def answer(name: str, call: Call, outcome: Outcome, correlation: bytes | None) -> Message:
    """The final answer, or the error, as a message called ``name``."""
    if outcome.refusal is not None:
        return error(name, outcome.refusal, correlation, sender=call.agent)
    return _message(name, outcome.payload, ((STATUS, b"ok"),), outcome.content_type, correlation, call.agent)


def part(name: str, call: Call, payload: bytes, content_type: str | None, correlation: bytes | None) -> Message:
    """A partial answer."""
    return _message(name, payload, ((STATUS, b"part"),), content_type, correlation, call.agent)


def error(name: str, refusal: Refusal, correlation: bytes | None, sender: str = "") -> Message:
    """Why there is no answer: in the payload for clients without headers, in headers for those with."""
    code = refusal.reason.value
    payload = msgspec.json.encode({"error": {"code": code, "message": refusal.detail}})
    headers: tuple[Header, ...] = ((STATUS, b"error"), (ERROR, code.encode()))
    return _message(name, payload, headers, JSON_TYPE, correlation, sender)


def _message(
    name: str,
    payload: bytes | None,
    headers: tuple[Header, ...],
    content_type: str | None,
    correlation: bytes | None,
    sender: str,
) -> Message:
    envelope = Envelope(headers=headers, content_type=content_type, correlation=correlation)
    return Message(name, payload, Wish.AT_LEAST_ONCE, sender, False, envelope)


@final
class Asker:
    """Who called by a verb. Numbered parts go below ``reply`` where the caller could not tell them apart otherwise."""

    __slots__ = ("_parts", "_send", "correlation", "numbered", "reply", "session")

    def __init__(
        self,
        session: Session,
        reply: str,
        correlation: bytes | None,
        numbered: bool,
        send: Callable[[Session, str, Message], object],
    ) -> None:
        self.session = session
        self.reply = reply
        self.correlation = correlation
        self.numbered = numbered
        self._send = send
        self._parts = 0

    def part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        """A partial answer."""
        self._parts += 1
        name = f"{self.reply}/{self._parts}" if self.numbered else self.reply
        self._send(self.session, call.caller_agent, part(name, call, payload, content_type, self.correlation))

    def final(self, call: Call, outcome: Outcome) -> None:
        """The answer."""
        self._send(self.session, call.caller_agent, answer(self.reply, call, outcome, self.correlation))


@final
class Voice:
    """Speaks in a channel for a server, with the permissions of the caller who asked for the answer there."""

    __slots__ = ("agent", "principal", "protocol")

    def __init__(self, principal: Principal, agent: str) -> None:
        self.principal = principal
        self.agent = agent
        self.protocol = "mesh"

    def deliver(self, feed: Feed, message: Message) -> bool:
        """It never listens."""
        raise AssertionError(f"{message.name!r} was delivered to a voice")

    def lost(self, feed: Feed, count: int) -> None:
        """It never listens."""

    def committed(self, ticket: Ticket) -> None:
        """Nobody waits for that."""

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Nobody waits for that; the log counts it."""

    def close(self, refusal: Refusal) -> None:
        """There is nothing to close."""
