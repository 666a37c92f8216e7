"""What becomes of messages nobody could work on: they are said again in a channel for them, with the reason.

The letter is the original's payload and facts; headers say which group gave up, why, after how many
deliveries and where the original was; its cause is the original's id. Only when the letter is
committed is the original finished, so a message is in one place or the other, or for a moment in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.channel import Channel, Keep
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.principal import MESH
from dragoman.routing.message import EMPTY, Envelope, Message
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.channels import Channels
    from dragoman.broker.core import Core
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.settings_groups import GroupSettings

DEAD_GROUP: Final = "mesh-dead-group"
DEAD_REASON: Final = "mesh-dead-reason"
DEAD_COUNT: Final = "mesh-dead-count"
DEAD_CHANNEL: Final = "mesh-dead-channel"
_OURS: Final = (DEAD_GROUP, DEAD_REASON, DEAD_COUNT, DEAD_CHANNEL)


@final
class DeadLetters:
    """Writes them, and says when they are safe."""

    def __init__(self, core: Core, channels: Channels, settings: GroupSettings) -> None:
        self._core = core
        self._channels = channels
        self._settings = settings
        self._session = InnerSession(MESH, settled=self._settled)
        self._waiting: dict[Ticket, list[Callable[[Refusal | None], None]]] = {}

    def bury(self, name: str, letter: Message, *, trimmed: bool, then: Callable[[Refusal | None], None]) -> None:
        """Says ``letter`` in the channel ``name``; ``then`` is called once, when that is safe or has failed.

        ``trimmed``: the channel is for this alone, so the oldest letters beyond the bound leave it.
        """
        channel = self._channels.open(name, "")
        if isinstance(channel, Refusal):
            then(channel)
            return
        if channel.declared is not Keep.ALL:
            self._channels.declare(channel, Keep.ALL)
        answer = channel.append(letter)
        if isinstance(answer, Refusal):
            then(answer)
            return
        assert answer, f"{name!r} keeps everything, so its letters have tickets"
        self._waiting.setdefault(answer, []).append(then)
        self._core.commits.tell(answer, self._session)
        if trimmed:
            self._trim(channel)

    def _trim(self, channel: Channel) -> None:
        log = self._core.log
        first, after = log.bounds(channel.number)
        keep_from = channel.next_offset - self._settings.dead_letters_max
        if after and keep_from > first:
            log.release(channel.number, keep_from)
            self._core.metrics.drop("dead-letters-full", min(keep_from, after) - first)

    def _settled(self, ticket: Ticket, refusal: Refusal | None) -> None:
        if refusal is not None:
            for then in self._waiting.pop(ticket, ()):
                then(refusal)
            return
        for safe in sorted(t for t in self._waiting if t <= ticket):
            for then in self._waiting.pop(safe):
                then(None)


def letter_of(message: Message, group: str, name: str, reason: str, count: int) -> Message:
    """The dead letter of a message. It does not expire: somebody has to look at it."""
    envelope = message.envelope or EMPTY
    headers = (
        *(header for header in envelope.headers if header[0] not in _OURS),
        (DEAD_GROUP, group.encode()),
        (DEAD_REASON, reason.encode()),
        (DEAD_COUNT, str(count).encode()),
        (DEAD_CHANNEL, message.name.encode()),
    )
    facts = Envelope(
        sent_ms=envelope.sent_ms,
        key=envelope.key,
        headers=headers,
        content_type=envelope.content_type,
        reply_to=envelope.reply_to,
        correlation=envelope.correlation,
        cause=message.id,
        hops=envelope.hops + 1,
        text=envelope.text,
    )
    return Message(name, message.payload, 1, message.sender, False, facts)
