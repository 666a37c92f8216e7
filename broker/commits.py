"""What has to wait for a commit: messages not yet visible, and sessions not yet told.

The log says "safe up to ticket t" or "ticket t failed". First the messages become visible in order,
then each session that asked is told once. A message that is not logged itself but follows a pending
one of its channel waits with it, so nothing becomes visible before an earlier offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, final

from dragoman.broker.channel import RESERVE, UNPROMISED, Keep
from dragoman.broker.log.contract import DONE, Table, Ticket
from dragoman.broker.rows import ChannelRow, channel_key, encode_message, encode_row
from dragoman.routing.filters import NameTree
from dragoman.routing.message import Bundle, Entry, Message, end_of
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.channel import Channel
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session


@final
class Commits:
    """Takes messages that need the log, shows them after their commit, tells their senders."""

    def __init__(self, core: Core) -> None:
        self._core = core
        #: channels that hold a retained value
        self.names = NameTree()
        self._hidden: dict[int, list[tuple[Channel, Entry, bool]]] = {}
        self._askers: dict[int, dict[Session, None]] = {}
        self.retained_count = 0
        self.retained_bytes = 0
        #: counts what became a retained value, so that a subscription knows the newer ones
        self.retained_turn = 0

    def take(self, channel: Channel, message: Message) -> Ticket | Refusal:
        """Appends to a channel that logs, has something pending, or gets a retained value."""
        core = self._core
        if channel.partitions and not message.retain:
            partition = channel.partition_for(message)
            if partition is not channel:
                return partition.append(message)
        logs = channel.keep == 2 or (channel.keep == 1 and message.wish > 0)
        if message.retain:
            refusal = self._retained_quota(channel, message)
            if refusal is not None:
                return refusal
        promised = DONE
        if logs or channel.reserved != UNPROMISED or (message.retain and message.payload):
            promised = self._promise(channel)
        ticket = DONE
        if logs:
            answer = core.log.append(message)
            if isinstance(answer, Refusal):
                return answer
            ticket = answer
        channel.next_offset = message.offset + 1
        safe = self._put_retained(channel, message) if message.retain else DONE
        if logs or promised or channel.pending:
            channel.pending = max(channel.pending, ticket, promised)
            channel.pace()
            self._hidden.setdefault(channel.pending, []).append((channel, message, logs))
        else:
            self._show(channel, message)
        return Ticket(max(ticket, safe)) if message.wish else ticket

    def take_bundle(self, channel: Channel, bundle: Bundle) -> Ticket | Refusal:
        """Appends a bundle to a channel that keeps all."""
        ticket = self._core.log.append(bundle)
        if isinstance(ticket, Refusal):
            return ticket
        channel.next_offset = end_of(bundle)
        channel.pending = ticket
        channel.pace()
        self._hidden.setdefault(ticket, []).append((channel, bundle, True))
        return ticket

    def mention(self, channel: Channel, message: Message) -> None:
        """Shows a message that nothing keeps, whatever the channel keeps: not the log, not as the retained value."""
        assert not channel.pending, f"{channel.name!r} waits for a commit, and would be said out of order"
        core = self._core
        channel.last_ms = message.time_ms = max(channel.last_ms, core.now_ms)
        message.number = channel.number
        message.offset = channel.next_offset
        channel.next_offset += 1
        channel.show(message)
        for arrived in channel.watchers or ():
            arrived(channel)

    def _promise(self, channel: Channel) -> Ticket:
        """Promises the next block of offsets in time, so that a crash goes on behind everything ever shown.

        Answers the ticket that the next message must not be shown before: none, unless the block is used up.
        What a channel showed before the log knew it needs no promise: its number would not come back.
        """
        left = channel.reserved - channel.next_offset
        if channel.declared is Keep.ALL or left > RESERVE // 2:
            return DONE
        late = left <= 0 and channel.reserved != UNPROMISED
        channel.reserved = channel.next_offset + RESERVE
        channel.pace()
        ticket = self.remember(channel)
        return ticket if late else DONE

    def remember(self, channel: Channel, *, settled: bool = False) -> Ticket:
        """Writes the channel's row: from now on its creation survives a restart."""
        limits = self._core.retention.of(channel)
        row = ChannelRow(
            name=channel.name,
            declared=int(channel.declared),
            reserved=channel.reserved,
            creator=channel.creator,
            retention_ms=limits.ms,
            retention_bytes=limits.bytes,
            retention_messages=limits.messages,
            settled=settled,
            partition=channel.partition,
        )
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
            for channel, entry, _ in entries:
                if channel.pending and channel.pending <= ticket:
                    channel.pending = 0
                    channel.pace()
                self._show(channel, entry)
        for t in sorted(t for t in self._askers if t <= ticket):
            for session in self._askers.pop(t):
                session.committed(ticket)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Commit ``ticket`` failed: what it held was never said. What merely waited behind it is shown.

        Also what waited for a promise of offsets: a disk that fails must not stop what needs no disk. Only if
        no commit at all works between this and a crash could those offsets come again.
        """
        self._core.tick()
        retaining: dict[Channel, None] = {}
        for channel, entry, logged in self._hidden.pop(ticket, ()):
            if channel.pending and channel.pending <= ticket:
                channel.pending = 0
                channel.pace()
            if not isinstance(entry, Bundle) and entry.retain:
                retaining[channel] = None
            if logged:
                self._core.metrics.drop("commit-failed", end_of(entry) - entry.offset)
            else:
                self._show(channel, entry)
        for channel in retaining:
            # The log keeps rows of failed commits for the next one; what was never said must not be retained.
            if channel.open:
                self._write_retained(channel)
        for session in self._askers.pop(ticket, ()):
            session.refused(ticket, refusal)

    def check(self, channels: Iterable[Channel]) -> None:
        """Asserts what must always hold between two turns. For tests; walks everything."""
        newest: dict[Channel, int] = {}
        after: dict[Channel, int] = {}
        for ticket in sorted(self._hidden):
            for channel, entry, _ in self._hidden[ticket]:
                assert entry.offset >= after.get(channel, channel.visible), "hidden out of order"
                after[channel] = end_of(entry)
                newest[channel] = ticket
        holding = 0
        for channel in channels:
            assert channel.pending == newest.get(channel, 0), f"{channel.name!r} waits for {channel.pending}"
            assert after.get(channel, channel.visible) <= channel.next_offset
            if channel.head is None:
                assert (channel.retained is not None) == (channel.name in self.names)
            if channel.retained is not None:
                holding += len(channel.retained.payload or b"")
        assert self.retained_count == len(self.names)
        assert self.retained_bytes == holding

    # -- retained ------------------------------------------------------------------------------------

    def _show(self, channel: Channel, entry: Entry) -> None:
        if not channel.open:
            self._core.metrics.drop("channel-closed", end_of(entry) - entry.offset)
            return
        readers = self._core.readers.match(channel.name) if entry.position else ()
        if isinstance(entry, Bundle):
            if readers or channel.fed:
                for message in self._core.bundles.messages(entry):
                    channel.show(message)
                    for reader in readers:
                        reader.visible(message)
            channel.passed(entry)
        else:
            if entry.retain:
                self.set_retained(channel, entry)
            channel.show(entry)
            for reader in readers:
                reader.visible(entry)
        for arrived in channel.watchers or ():
            arrived(channel)

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
        self.retained_turn += 1
        channel.retained_at = self.retained_turn
        self.retained_count += 1
        self.retained_bytes += len(message.payload)
        self.names.add(channel.name)

    def _put_retained(self, channel: Channel, message: Message) -> Ticket:
        row = encode_message(message) if message.payload else None
        return self._core.log.put(Table.RETAINED, channel_key(channel.number), row)

    def _write_retained(self, channel: Channel) -> None:
        held = channel.retained
        row = encode_message(held) if held is not None else None
        self._core.log.put(Table.RETAINED, channel_key(channel.number), row)

    def _retained_quota(self, channel: Channel, message: Message) -> Refusal | None:
        settings = self._core.settings
        if not message.payload:
            return None
        held = channel.retained
        more = len(message.payload) - (len(held.payload or b"") if held is not None else 0)
        if held is None and self.retained_count >= settings.retained_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED,
                f"{self.retained_count} channels hold a retained value and broker.retained_max allows no more",
            )
        if more > 0 and self.retained_bytes + more > settings.retained_bytes_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED,
                f"retained values hold {self.retained_bytes} bytes; "
                f"broker.retained_bytes_max is {settings.retained_bytes_max}",
            )
        return None
