"""Which channels there are: created by first use, numbered, remembered where they must be, gone when idle."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.channel import RESERVE, STALE, UNPROMISED, Channel, Keep
from dragoman.broker.log.contract import EVERYTHING, Position, Table, Ticket
from dragoman.broker.retention import NO_LIMITS, Limits
from dragoman.broker.rows import ChannelRow, NumbersRow, channel_key, decode_message, decode_row, encode_row
from dragoman.routing.message import NODE_BITS
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.core import Core

NUMBERS_BLOCK: Final = 65_536
"""Channel numbers promised in the log at a time."""

SWEEP_CHUNK: Final = 2_000
"""Channels looked at per sweep turn."""

_NUMBERS: Final = b"channel-numbers"


@final
class Channels:
    """The channels by name and by number."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.by_name: dict[str, Channel] = {}
        self.by_number: dict[int, Channel] = {}
        #: those that somebody declared to keep all, but for the mesh's own
        self.kept: dict[str, Channel] = {}
        self._number = 0
        self._numbers_end = 0
        #: all channels, in the order in which the sweep comes to them
        self._round: deque[Channel] = deque()
        self._created_by: dict[str, int] = {}
        self.created_total = 0
        self.evaporated_total = 0

    def find(self, name: str) -> Channel | None:
        """The channel of that name, if it exists now."""
        return self.by_name.get(name)

    def open(self, name: str, creator: str) -> Channel | Refusal:
        """The channel of that name, created if need be. Name and permission are the caller's business.

        ``creator`` is the principal whose quota a new channel counts against; "" = the mesh itself.
        """
        channel = self.by_name.get(name)
        if channel is not None:
            return channel
        settings = self._core.settings
        if len(self.by_name) >= settings.channels_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED,
                f"{len(self.by_name)} channels exist and broker.channels_max allows no more",
                retry_after_ms=settings.channel_idle_ms,
            )
        mine = self._created_by.get(creator, 0)
        if creator and mine >= settings.channels_per_principal_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED,
                f"{creator!r} has created {mine} channels that still exist and "
                "broker.channels_per_principal_max allows no more",
                retry_after_ms=settings.channel_idle_ms,
            )
        channel = self._enter(Channel(self._core, name, self._next_number()))
        channel.creator = creator
        self._created_by[creator] = mine + 1
        self.created_total += 1
        return channel

    def add_partition(self, head: Channel) -> Channel:
        """One more partition of a channel that keeps all: a numbered log of its own under the same name.

        Who reads the channel reads all its partitions; see ``Channel.partition_for`` for who writes where.
        """
        assert head.head is None, "a partition has none"
        assert head.declared is Keep.ALL, f"{head.name!r} cannot have partitions: it does not keep all"
        channel = Channel(self._core, head.name, self._next_number())
        channel.creator = head.creator
        self._join(head, channel)
        self._enter(channel)
        self._created_by[channel.creator] = self._created_by.get(channel.creator, 0) + 1
        self.declare(channel, Keep.ALL, self._core.retention.of(head))
        return channel

    def _join(self, head: Channel, channel: Channel) -> None:
        channel.head = head
        head.partitions = (*(head.partitions or (head,)), channel)
        head.stale()

    def _enter(self, channel: Channel) -> Channel:
        if channel.head is None:
            self.by_name[channel.name] = channel
        self.by_number[channel.number] = channel
        self._round.append(channel)
        self._core.metrics.channels = len(self.by_name)
        return channel

    def declare(self, channel: Channel, keep: Keep, limits: Limits = NO_LIMITS) -> None:
        """Its owner asks the channel to keep what it logs, durably from now on, within limits."""
        self._core.retention.set(channel, limits)
        channel.declared = keep
        channel.generation = STALE
        self._list(channel)
        # Of a channel that logs everything the log itself knows the next offset, so that it stays dense.
        channel.reserved = channel.next_offset + (0 if keep is Keep.ALL else RESERVE)
        self._core.commits.remember(channel)

    def _list(self, channel: Channel) -> None:
        if channel.head is not None or channel.name.startswith("$"):
            return
        if channel.declared is Keep.ALL:
            self.kept[channel.name] = channel
        else:
            self.kept.pop(channel.name, None)

    # -- numbers -----------------------------------------------------------------------------------

    def _next_number(self) -> int:
        if self._numbers_end - self._number <= NUMBERS_BLOCK // 2:
            self.promise_numbers()
        number = self._number
        self._number += 1
        return number

    def promise_numbers(self) -> Ticket:
        """Promises the next block of numbers in the log; answers the ticket. Called ahead of use."""
        self._numbers_end = self._number + NUMBERS_BLOCK
        return self._core.log.put(Table.META, _NUMBERS, encode_row(NumbersRow(next=self._numbers_end)))

    # -- start and end -----------------------------------------------------------------------------

    def load(self) -> Ticket:
        """Restores what the log remembers; answers the ticket of the first promise of numbers."""
        core = self._core
        row = core.log.get(Table.META, _NUMBERS)
        base = (core.settings.node << (64 - NODE_BITS)) + 1
        self._number = decode_row(row, NumbersRow).next if row is not None else base
        ticket = self.promise_numbers()
        rows = [(key, decode_row(value, ChannelRow)) for key, value in core.log.rows(Table.CHANNELS)]
        for key, known in sorted(rows, key=lambda row: row[1].partition):
            number = int.from_bytes(key, "big")
            after = core.log.bounds(number)[1]
            channel = Channel(core, known.name, number, next_offset=max(known.reserved, after))
            channel.reserved = known.reserved
            if after < known.reserved and not known.settled and known.declared != Keep.ALL:
                channel.unsure = known.reserved
            channel.declared = Keep(known.declared)
            channel.creator = known.creator
            self._created_by[known.creator] = self._created_by.get(known.creator, 0) + 1
            core.retention.set(channel, Limits(known.retention_ms, known.retention_bytes, known.retention_messages))
            if known.partition:
                self._join(self.by_name[known.name], channel)
            self._enter(channel)
            self._list(channel)
        for number in [number for number in core.log.channels() if number not in self.by_number]:
            core.log.release(number, EVERYTHING)
        for key, value in core.log.rows(Table.RETAINED):
            holder = self.by_number.get(int.from_bytes(key, "big"))
            if holder is not None:
                core.commits.set_retained(holder, decode_message(value))
                holder.last = holder.retained
        return ticket

    def settle(self) -> None:
        """The mesh stops: gives back promised offsets that were not used. Nothing is taken in after this."""
        for channel in self.by_number.values():
            if channel.reserved > channel.next_offset and channel.declared is not Keep.ALL:
                channel.reserved = channel.next_offset
                self._core.commits.remember(channel, settled=True)

    def sweep(self) -> None:
        """Frees what nobody wants. Called every ``sweep_ms``.

        Looks at as many channels, a chunk a turn, that each comes round in about the time one may be idle.
        """
        settings = self._core.settings
        rounds = max(1, settings.channel_idle_ms // settings.sweep_ms)
        self._look(min(len(self._round), max(SWEEP_CHUNK, -(-len(self._round) // rounds))))

    def _look(self, left: int) -> None:
        if self._core.stopping:
            return
        for _ in range(min(left, SWEEP_CHUNK, len(self._round))):
            channel = self._round.popleft()
            if channel.open and self._tidy(channel):
                self._round.append(channel)
        if left > SWEEP_CHUNK:
            self._core.loop.call_soon(self._look, left - SWEEP_CHUNK)

    def _tidy(self, channel: Channel) -> bool:
        """Frees what the channel need not keep; False if the channel itself is no more."""
        core = self._core
        # Not while something is pending: the row may be that of the next value already.
        if channel.retained is not None and not channel.pending and channel.retained.expired(core.now_ms):
            self.clear_retained(channel)
        if channel.generation != core.generation:
            channel.refresh()
        if self._evaporates(channel):
            self.close(channel)
            return False
        if channel.logged:
            if channel.declared is not Keep.ALL:
                self._release(channel)
            core.retention.enforce(channel)
        return True

    def _release(self, channel: Channel) -> None:
        """Frees what all its durable readers have passed: it logs for them alone. Without any, all of it."""
        core = self._core
        readers = core.readers.match(channel.name)
        low = Position(min(reader.low for reader in readers)) if readers else None
        core.log.release(channel.number, channel.next_offset, low)
        if not readers:
            # What it keeps is computed anew: with nothing in the log it may fall back.
            channel.generation = STALE

    def _evaporates(self, channel: Channel) -> bool:
        settings = self._core.settings
        return (
            not channel.wanted
            and self._core.now_ms - max(channel.last_ms, channel.idle_since_ms) >= settings.channel_idle_ms
        )

    def clear_retained(self, channel: Channel) -> None:
        """Takes the retained value away without saying anything in the channel (expiry, administration)."""
        self._core.commits.set_retained(channel, None)
        self._core.log.put(Table.RETAINED, channel_key(channel.number), None)

    def close(self, channel: Channel) -> None:
        """Ends this creation of the channel. A later use of the name makes a new one with a new number."""
        core = self._core
        for partition in channel.partitions[1:]:
            self.close(partition)
        channel.open = False
        for arrived in channel.watchers or ():
            arrived(channel)
        for feed in (channel.feeds or {}).values():
            core.pump.end(feed)
        channel.feeds = None
        channel.live = channel.rest = ()
        core.retention.forget(channel)
        if channel.head is None:
            del self.by_name[channel.name]
            self.kept.pop(channel.name, None)
        del self.by_number[channel.number]
        core.metrics.channels = len(self.by_name)
        if channel.retained is not None:
            self.clear_retained(channel)
        left = self._created_by.get(channel.creator, 0) - 1
        if left > 0:
            self._created_by[channel.creator] = left
        else:
            self._created_by.pop(channel.creator, None)
        core.rings.clear(channel.ring)
        if channel.reserved != UNPROMISED:
            core.log.put(Table.CHANNELS, channel_key(channel.number), None)
        if channel.pending or core.log.bounds(channel.number)[1]:
            core.log.release(channel.number, EVERYTHING)
        self.evaporated_total += 1

    def renew(self, channel: Channel) -> Channel | None:
        """Ends this creation; who subscribes to exactly this name goes on with a new one, if anybody does."""
        exact, channel.exact = channel.exact, None
        self.close(channel)
        if not exact:
            return None
        successor = self._enter(Channel(self._core, channel.name, self._next_number()))
        successor.creator = channel.creator
        successor.exact = exact
        self._created_by[channel.creator] = self._created_by.get(channel.creator, 0) + 1
        self.created_total += 1
        return successor

    def check(self) -> None:
        """Asserts what must always hold between two turns. For tests; walks everything."""
        assert {p.number: p for c in self.by_name.values() for p in c.partitions or (c,)} == self.by_number
        assert all(name == channel.name and channel.open for name, channel in self.by_name.items())
        assert sorted(c.number for c in self._round if c.open) == sorted(self.by_number), "a channel no sweep comes to"
        assert all(number < self._number <= self._numbers_end for number in self.by_number)
        kept = {n: c for n, c in self.by_name.items() if c.declared is Keep.ALL and not n.startswith("$")}
        assert kept == self.kept
        created: dict[str, int] = {}
        for channel in self.by_number.values():
            created[channel.creator] = created.get(channel.creator, 0) + 1
        assert created == self._created_by
