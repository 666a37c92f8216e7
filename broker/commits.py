"""What has to wait for a commit: messages not yet visible, and sessions not yet told.

The log says "safe up to ticket t" or "ticket t failed". First the messages become visible in order,
then each session that asked is told once. A message that is not logged itself but follows a pending
one of its channel waits with it, so nothing becomes visible before an earlier offset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from dragoman.broker.log.contract import DONE, Table, Ticket
from dragoman.broker.rows import ChannelRow, channel_key, encode_message, encode_row
from dragoman.routing.filters import NameTree
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.channel import Channel
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.routing.message import Message

RESERVE: Final = 4_096
"""Offsets promised at a time. A restart skips at most this many; smaller means more state rows."""


@final
class Commits:
    """Takes messages that need the log, shows them after their commit, tells their senders."""

    def __init__(self, core: Core) -> None:
        self._core = core
        #: channels that hold a retained value
        self.names = NameTree()
        self._hidden: dict[int, list[tuple[Channel, Message, bool]]] = {}
        self._askers: dict[int, dict[Session, None]] = {}
        self.retained_count = 0
        self.retained_bytes = 0

    def take(self, channel: Channel, message: Message) -> Ticket | Refusal:
        """Appends to a channel that logs, has something pending, or gets a retained value."""
        core = self._core
        logs = channel.keep == 2 or (channel.keep == 1 and message.wish > 0)
        if message.retain:
            refusal = self._retained_quota(channel, message)
            if refusal is not None:
                return refusal
        ticket = DONE
        if logs:
            if channel.next_offset >= channel.reserved:
                self.reserve(channel)
            answer = core.log.append(message)
            if isinstance(answer, Refusal):
                return answer
            ticket = answer
        channel.next_offset = message.offset + 1
        safe = self._put_retained(channel, message) if message.retain else DONE
        if logs or channel.pending:
            channel.pending = max(channel.pending, ticket)
            self._hidden.setdefault(channel.pending, []).append((channel, message, logs))
        else:
            self._show(channel, message)
        return Ticket(max(ticket, safe)) if message.wish else ticket

    def reserve(self, channel: Channel) -> None:
        """Promises the next block of offsets, so that a restart goes on behind everything ever handed out."""
        channel.reserved = channel.next_offset + RESERVE
        self.remember(channel)

    def remember(self, channel: Channel) -> Ticket:
        """Writes the channel's row: from now on its creation survives a restart."""
        if channel.reserved <= channel.next_offset:
            channel.reserved = channel.next_offset + RESERVE
        row = ChannelRow(name=channel.name, declared=int(channel.declared), reserved=channel.reserved)
        return self._core.log.put(Table.CHANNELS, channel_key(channel.number), encode_row(row))

    def tell(self, ticket: int, session: Session) -> None:
        """The session wants to hear about this ticket."""
        askers = self._askers.get(ticket)
        if askers is None:
            self._askers[ticket] = {session: None}
        else:
            askers[session] = None

    def forget(self, session: Session) -> None:
        """The session is gone; nobody wants its answers."""
        for askers in self._askers.values():
            askers.pop(session, None)

    # -- called by the log ---------------------------------------------------------------------------

    def committed(self, ticket: Ticket) -> None:
        """Everything up to ``ticket`` is safe."""
        self._core.tick()
        self._core.metrics.commits += 1
        hidden = [self._hidden.pop(t) for t in sorted(t for t in self._hidden if t <= ticket)]
        for entries in hidden:
            for channel, message, _ in entries:
                if channel.pending <= ticket:
                    channel.pending = 0
                self._show(channel, message)
        for t in sorted(t for t in self._askers if t <= ticket):
            for session in self._askers.pop(t):
                session.committed(ticket)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Commit ``ticket`` failed: what it held was never said. What merely waited behind it is shown."""
        self._core.tick()
        for channel, message, logged in self._hidden.pop(ticket, ()):
            if channel.pending <= ticket:
                channel.pending = 0
            if logged:
                self._core.metrics.drop("commit-failed")
            else:
                self._show(channel, message)
        for session in self._askers.pop(ticket, ()):
            session.refused(ticket, refusal)

    # -- retained ------------------------------------------------------------------------------------

    def _show(self, channel: Channel, message: Message) -> None:
        if message.retain:
            self.set_retained(channel, message)
        channel.show(message)
        if message.position:
            for reader in self._core.readers.match(channel.name):
                reader.visible(message)

    def set_retained(self, channel: Channel, message: Message | None) -> None:
        """Makes a message the channel's retained value; one without payload clears it."""
        if channel.retained is not None:
            self.retained_count -= 1
            self.retained_bytes -= len(channel.retained.payload or b"")
        if message is None or not message.payload:
            channel.retained = None
            self.names.discard(channel.name)
            return
        channel.retained = message
        self.retained_count += 1
        self.retained_bytes += len(message.payload)
        self.names.add(channel.name)

    def _put_retained(self, channel: Channel, message: Message) -> Ticket:
        log = self._core.log
        if not message.payload:
            return log.put(Table.RETAINED, channel_key(channel.number), None)
        if channel.reserved <= channel.next_offset:
            self.reserve(channel)
        return log.put(Table.RETAINED, channel_key(channel.number), encode_message(message))

    def _retained_quota(self, channel: Channel, message: Message) -> Refusal | None:
        settings = self._core.settings
        if not message.payload or channel.retained is not None:
            return None
        if self.retained_count >= settings.retained_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED,
                f"{self.retained_count} channels hold a retained value and broker.retained_max allows no more",
            )
        if self.retained_bytes + len(message.payload) > settings.retained_bytes_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED,
                f"retained values hold {self.retained_bytes} bytes; "
                f"broker.retained_bytes_max is {settings.retained_bytes_max}",
            )
        return None
