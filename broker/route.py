"""A principal's way into a channel, judged once and remembered by whoever publishes often."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.broker.gate import Action
from dragoman.broker.log.contract import Ticket
from dragoman.broker.rates import Limiter, take
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.channel import Channel
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.routing.message import Bundle, Message


@final
class Route:
    """Permission to publish into one channel. Remember it while ``valid``; ask the broker again when not.

    ``generation`` is the gate's at the judgement; hot paths compare it themselves instead of asking ``valid``.
    ``direct``: nothing is asked per message, so ``channel.append`` may be called instead of ``publish`` where
    the sender does not want to hear of tickets.
    ``inspect``: the gate wants to see each message; the broker asks it, the holder does nothing.
    """

    __slots__ = ("_core", "_limiters", "channel", "direct", "generation", "inspect", "name")

    def __init__(self, core: Core, channel: Channel, limiters: tuple[Limiter, ...], inspect: bool) -> None:
        self._core = core
        self.generation = core.gate.generation
        self._limiters = limiters
        self.channel = channel
        self.name = channel.name
        self.inspect = inspect
        self.direct = not limiters and not inspect

    @property
    def valid(self) -> bool:
        """Whether rules and channel are still those it was judged by."""
        return self.channel.open and self.generation == self._core.gate.generation

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """Publishes; the message's name is this route's, its sender the session's agent.

        Answers ``DONE``, a ticket the session will hear about, or a counted Refusal; never raises.
        """
        core = self._core
        if self._limiters or self.inspect:
            refusal = self._judge(session, 1, len(message.payload or b""))
            if refusal is not None:
                core.metrics.refuse(refusal.reason)
                return refusal
        answer = self.channel.append(message)
        if answer:
            if isinstance(answer, Refusal):
                core.metrics.refuse(answer.reason)
            else:
                core.commits.tell(answer, session)
        return answer

    def publish_bundle(self, session: Session, bundle: Bundle, channel: Channel) -> Ticket | Refusal:
        """Publishes several messages at once into ``channel``: this route's, or a partition of it. See ``publish``."""
        core = self._core
        assert channel is self.channel or channel.head is self.channel, "a partition of some other channel"
        refusal = self._judge(session, bundle.count, len(bundle.body))
        answer = channel.append_bundle(bundle) if refusal is None else refusal
        if isinstance(answer, Refusal):
            core.metrics.refuse(answer.reason)
            return answer
        core.metrics.messages_in += bundle.count
        core.metrics.bytes_in += len(bundle.body)
        core.commits.tell(answer, session)
        return answer

    def _judge(self, session: Session, count: int, size: int) -> Refusal | None:
        core = self._core
        if self._limiters:
            wait_ms = take(self._limiters, core.monotonic_ms, count, size)
            if wait_ms:
                return Refusal(
                    Reason.RATE_EXCEEDED,
                    f"{session.principal.name!r} publishes faster than its rate limit",
                    retry_after_ms=wait_ms,
                )
        if self.inspect:
            verdict = core.gate.check(session.principal, Action.PUBLISH, self.name, session.agent)
            if isinstance(verdict, Refusal):
                return verdict
        return None
