"""A durable reader's place in commit order: a persistent MQTT session, a work group, a mailbox.

One cursor for all filters of the reader: a low mark, below which everything it wanted is done, and a
bounded set of positions done above it. Caught up, it is offered messages as they become visible;
behind, it scans the log from its place. So an absent reader costs a row and its position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, final

from dragoman.broker.left_out import LeftOut
from dragoman.broker.log.contract import Position
from dragoman.broker.rows import CursorRow
from dragoman.routing.names import is_exact, matches

if TYPE_CHECKING:
    from dragoman.broker.backlogs import Backlogs
    from dragoman.broker.session import Session
    from dragoman.routing.message import Entry, Message

SCAN_BYTES: Final = 256 * 1024


class Bounds(NamedTuple):
    """What may wait for a reader that is behind, what it has taken not counted; 0 = as much as the log holds.

    ``new_goes``: what is new and finds no room is left out, not what is old.
    """

    messages: int
    bytes: int
    age_ms: int
    new_goes: bool = False

    @property
    def lower(self) -> Bounds:
        """An eighth below: what is enforced at the upper bounds leaves room for more than one message."""
        return self._replace(messages=self.messages - self.messages // 8, bytes=self.bytes - self.bytes // 8)

    def exceeded(self, messages: int, bytes_: int) -> bool:
        """Whether that is more than may wait."""
        return 0 < self.messages < messages or 0 < self.bytes < bytes_


@final
class Backlog:
    """One durable reader.

    ``offer`` is asked to take a message (False: no credit; it is offered again after ``resume``). A taken
    message is open until ``finish`` is called with its position. ``credit`` of the reader is its own
    business; what is open is bounded by ``broker.cursor_done_max``, together with what is done above it, as long as
    that is not known from ``settled``: after a crash that is as much as was done since its row was written. ``saved``
    is called when the reader's place has been put into the open commit, ``skipped`` with each message that had
    expired before it could be offered, ``turned`` with the message that was not taken when it falls behind, and with
    None when it has caught up. ``reader``: the session that is attached for it, if one is.

    ``waiting`` messages and bytes have come since it fell behind, and were not offered yet (without bounds: since the
    mesh started; with them, what came in the last seconds before a crash may be missing);
    ``lost``: taken away by a limit since the mesh started. When ``bounds`` are exceeded, ``overflowed`` is called in
    a later turn (None: ``trim``), and ``dropped`` with each message that ``trim`` lets go.
    """

    __slots__ = (
        "_backlogs",
        "_called",
        "_counted",
        "_counted_to",
        "_done",
        "_epoch",
        "_exact",
        "_filters",
        "_generation",
        "_left_out",
        "_noted",
        "_open",
        "_past",
        "_reading",
        "_uncounted",
        "_wanted",
        "behind",
        "bounds",
        "dropped",
        "key",
        "lost",
        "next",
        "offer",
        "oldest_ms",
        "overflowed",
        "reader",
        "saved",
        "skipped",
        "turned",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, backlogs: Backlogs, key: bytes, offer: Callable[[Message], bool], row: CursorRow) -> None:
        self._backlogs = backlogs
        self.key = key
        self.offer = offer
        self.skipped: Callable[[Message], object] | None = None
        self.turned: Callable[[Message | None], object] | None = None
        self._filters: dict[str, int] = dict(row.filters)
        #: filters of before, from which position on and up to which one; each until its place has passed that
        self._past: dict[str, tuple[int, int]] = dict(row.past)
        self._done: set[int] = set(row.done)
        self._open: dict[int, None] = {}
        self._left_out = LeftOut(row.left_out)
        self.next = row.low
        self.behind = True
        self._reading = False
        self._epoch = 0
        self._generation = -1
        self.saved: Callable[[], object] | None = None
        self._wanted: dict[int, bool] = {}
        self._exact = False
        self.reader: Session | None = None
        self.bounds: Bounds | None = None
        self.overflowed: Callable[[], object] | None = None
        self.dropped: Callable[[Message], object] | None = None
        self._called = False
        #: nothing that waits is older, wall clock; 0 = nobody has looked
        self.oldest_ms = 0
        self.lost = 0
        #: what waits is counted from a position on and up to one, but for a span that came before a restart
        self.waiting, self.waiting_bytes, self._counted, self._counted_to = row.waits
        end = int(backlogs.core.log.end())
        self._uncounted = range(self._counted_to, end)
        #: how many waited when its row was written last
        self._noted = self.waiting

    # -- what it reads -------------------------------------------------------------------------------

    @property
    def filters(self) -> Sequence[str]:
        """The filters it reads, in the order they were added, and those it reads to their end."""
        return list(self._filters | self._past)

    @property
    def leaving(self) -> bool:
        """Whether it reads filters of which it takes nothing new."""
        return bool(self._past)

    def reads(self, message: Message) -> bool:
        """Whether a message of the log is for this reader, and always was."""
        name, position = message.name, message.position
        return any(start <= position and matches(f, name) for f, start in self._filters.items()) or any(
            start <= position < end and matches(f, name) for f, (start, end) in self._past.items()
        )

    def watch(self, filter_: str) -> None:
        """Reads this filter too, from now on. Again: nothing changes."""
        if filter_ in self._filters:
            return
        core = self._backlogs.core
        self._filters[filter_] = core.log.end()
        core.readers.add(filter_, self)
        core.changed()
        # At once, not with the next flush: who was told that it subscribes must find what comes now after a crash.
        self._backlogs.save(self)

    def unwatch(self, filter_: str) -> None:
        """No longer reads this filter; what is open stays open, what waits is let go."""
        if filter_ not in self._filters and filter_ not in self._past:
            return
        self._filters.pop(filter_, None)
        self._past.pop(filter_, None)
        core = self._backlogs.core
        core.readers.remove(filter_, self)
        core.changed()
        self._backlogs.save(self)

    def unwatch_new(self, filter_: str) -> None:
        """Takes nothing new of this filter, but all that waits, after a crash too."""
        start = self._filters.get(filter_)
        if start is None:
            return
        end = int(self._backlogs.core.log.end())
        if self.low >= end:
            self.unwatch(filter_)
            return
        # Twice, and still behind: one span over both, so a client that goes on so takes no room.
        self._past[filter_] = self._past.get(filter_, (start, end))[0], end
        del self._filters[filter_]
        self._backlogs.core.changed()
        self._backlogs.save(self)

    def _forget_past(self) -> None:
        low, core = self.low, self._backlogs.core
        for filter_ in [f for f, (_, end) in self._past.items() if end <= low]:
            del self._past[filter_]
            if filter_ not in self._filters:
                core.readers.remove(filter_, self)
            core.changed()

    def wants(self, number: int) -> bool:
        """Whether messages of this channel are for this reader."""
        self._look_again()
        wanted = self._wanted.get(number)
        if wanted is None:
            channel = self._backlogs.channels.by_number.get(number)
            wanted = channel is not None and any(matches(f, channel.name) for f in self._filters | self._past)
            self._wanted[number] = wanted
        return wanted

    def _look_again(self) -> None:
        core = self._backlogs.core
        if self._generation == core.generation:
            return
        self._generation = core.generation
        self._wanted.clear()
        self._exact = all(is_exact(f) for f in self.filters)

    def _numbers(self) -> list[int] | None:
        """All channels it could want, or None. Asked anew for each scan: a channel may have been created since."""
        if not self._exact:
            return None
        by_name = self._backlogs.channels.by_name
        heads = [by_name[f] for f in self.filters if f in by_name]
        return [channel.number for head in heads for channel in head.partitions or (head,)]

    # -- where it is ---------------------------------------------------------------------------------

    @property
    def low(self) -> int:
        """Everything below this position is done with."""
        if self._open:
            return next(iter(self._open))
        return self.next if self.behind else max(self.next, self._backlogs.core.log.end())

    @property
    def open_count(self) -> int:
        """Messages taken and not finished."""
        return len(self._open)

    @property
    def done_count(self) -> int:
        """Messages finished above one that is not: what the row has to list."""
        return len(self._done)

    def visible(self, message: Message) -> None:
        """A logged message it reads has become visible. Told by the commits, in commit order.

        Not by live feeds: one that lags in another channel would make the reader pass over what it has not seen.
        """
        if message.position < self.next or (self._past and not self.reads(message)):
            return
        if not self.behind:
            if self._take(message):
                return
            self.behind = True
            self._counted = message.position
            self.oldest_ms = message.time_ms
            if self.turned is not None:
                self.turned(message)
        size = len(message.payload or b"")
        if self.bounds is not None and self.bounds.new_goes and self._leaves_out(self.bounds, message.position, size):
            return
        self.waiting += 1
        self.waiting_bytes += size
        self._counted_to = message.position + 1
        if self.bounds is not None and not self._called and self.bounds.exceeded(self.waiting, self.waiting_bytes):
            self._called = True
            self._backlogs.core.loop.call_soon(self._overflow)

    def _leaves_out(self, bounds: Bounds, position: int, size: int) -> bool:
        left_out = self._left_out
        room = bounds.lower if left_out.growing else bounds
        if not room.exceeded(self.waiting + 1, self.waiting_bytes + size):
            left_out.growing = False
            return False
        left_out.add(position, self.next)
        self._gap(1)
        self._backlogs.dirty(self)
        return True

    def _overflow(self) -> None:
        self._called = False
        if self.behind and self.bounds is not None and self.bounds.exceeded(self.waiting, self.waiting_bytes):
            (self.overflowed or self.trim)()

    def bound(self, bounds: Bounds | None) -> None:
        """Other bounds from now on. What is beyond them already goes when the next message comes."""
        self._left_out.growing = False
        # A look at what waits may be under way, and goes by the bounds there are when it comes back.
        self.bounds = bounds if bounds is not None or self.bounds is None else Bounds(0, 0, 0)

    def missed(self, messages: Sequence[Message]) -> None:
        """Counts what a limit has taken away before it was offered."""
        if not self.behind:
            return
        count = sum(
            m.position >= self.next
            and m.position not in self._done
            and self.reads(m)
            and not self._left_out.has(m.position)
            for m in messages
        )
        if count:
            self._gap(count)

    def _gap(self, count: int) -> None:
        metrics = self._backlogs.core.metrics
        metrics.gaps += 1
        metrics.lost += count
        self.lost += count

    def finish(self, position: int) -> None:
        """The message at this position is done with: acknowledged, given up or expired. Even before it was offered."""
        if position not in self._open:
            self.settled(position)
            self._backlogs.dirty(self)
            return
        first = next(iter(self._open)) == position
        del self._open[position]
        if first:
            low = self.low
            if self._done:
                self._done = {p for p in self._done if p >= low}
        else:
            self._done.add(position)
        self._backlogs.dirty(self)

    def pause(self) -> None:
        """The reader is gone for now. What is open stays open: it is the reader's to go on with when it comes back."""
        if not self.behind:
            self._counted = self.next = max(self.next, self._backlogs.core.log.end())
            self.oldest_ms = self._backlogs.core.clock.now_ms()
        self.behind = True
        self._reading = False
        self._epoch += 1

    def settled(self, position: int) -> None:
        """Beside its own row the reader knows that this is done with: it will not be offered."""
        if position >= self.next:
            self._done.add(position)

    def resume(self) -> None:
        """The reader has credit: goes on from its place until it has none or is caught up."""
        if self.behind and not self._reading:
            self._reading = True
            self._scan()

    def _scan(self) -> None:
        self._look(self._arrived)

    def _look(self, then: Callable[[int, Sequence[Entry], int], None]) -> None:
        # The reader may come back to a mesh where nothing has happened for long: what has expired is judged by now.
        self._backlogs.core.tick()
        self._look_again()
        log = self._backlogs.core.log
        epoch = self._epoch
        log.scan(Position(self.next), SCAN_BYTES, self.wants, lambda m, n: then(epoch, m, n), self._numbers())

    def _arrived(self, epoch: int, entries: Sequence[Entry], following: int) -> None:
        if epoch != self._epoch:
            return
        for message in self._backlogs.core.bundles.after(entries, self.next):
            if not self._take(message):
                self._reading = False
                return
        self.next = max(self.next, following)
        if not entries and self.next >= self._backlogs.core.log.end():
            self._reading = False
            self.behind = False
            self.waiting = self.waiting_bytes = 0
            self._left_out.clear()
            self._backlogs.dirty(self)
            if self.turned is not None:
                self.turned(None)
            return
        self._backlogs.core.loop.call_soon(self._go_on, epoch)

    def _go_on(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._scan()

    def _take(self, message: Message) -> bool:
        position = message.position
        if position < self.next:
            return True
        if self._passes_over(message):
            self.next = position + 1
            return True
        if position in self._done:
            if not self._open:
                # Its place is behind it from now on.
                self._done.discard(position)
        elif not self._skips(message):
            if self._open and len(self._open) + len(self._done) >= self._backlogs.core.settings.cursor_done_max:
                # Never so while nothing is open, however much is known to be done: nothing would make room again.
                return False
            self._open[position] = None
            if not self.offer(message):
                del self._open[position]
                return False
        self._passed(message)
        return True

    def _passes_over(self, message: Message) -> bool:
        """Whether it is none of those that are counted as waiting."""
        return self._left_out.has(message.position) or (bool(self._past) and not self.reads(message))

    def _passed(self, message: Message) -> None:
        self.next = message.position + 1
        if self.waiting and message.position >= self._counted and message.position not in self._uncounted:
            self.waiting -= 1
            self.waiting_bytes -= len(message.payload or b"")

    def _skips(self, message: Message) -> bool:
        if message.expired(self._backlogs.core.now_ms):
            self._backlogs.core.metrics.drop("expired")
            if self.skipped is not None:
                self.skipped(message)
            return True
        return not self.reads(message)

    # -- what may not wait any longer --------------------------------------------------------------

    def trim(self) -> None:
        """Lets the oldest go that wait until an eighth of the bounds is free, and all that is too old; a counted gap.

        A reader that is being read for is let be.
        """
        if self.behind and not self._reading and self.bounds is not None:
            self._reading = True
            self._look(self._beyond)

    @property
    def overdue(self) -> bool:
        """Whether something may wait that is too old."""
        if self.bounds is None or not self.bounds.age_ms or not self.behind or self._reading:
            return False
        return self.oldest_ms <= self._backlogs.core.now_ms - self.bounds.age_ms

    def _beyond(self, epoch: int, entries: Sequence[Entry], following: int) -> None:
        if epoch != self._epoch:
            return
        assert self.bounds is not None, "a reader keeps its bounds"
        bounds, now_ms = self.bounds, self._backlogs.core.now_ms
        lower = bounds.lower
        count, over = 0, False
        for message in self._backlogs.core.bundles.after(entries, self.next):
            old = 0 < bounds.age_ms <= now_ms - message.time_ms
            if self._passes_over(message):
                self.next = message.position + 1
                continue
            if not old and not lower.exceeded(self.waiting, self.waiting_bytes):
                over = True
                self.oldest_ms = message.time_ms
                break
            if message.position not in self._done and not self._skips(message):
                count += 1
                if self.dropped is not None:
                    self.dropped(message)
            self._passed(message)
        else:
            self.next = max(self.next, following)
            self.oldest_ms = now_ms
            over = self.next >= self._backlogs.core.log.end()
        if count:
            self._gap(count)
            # Not with the next flush: what `dropped` has written must not be safe without it.
            self._backlogs.save(self)
        if over:
            self._reading = False
            self.resume()
        else:
            self._backlogs.core.loop.call_soon(self._trim_on, epoch)

    def _trim_on(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._look(self._beyond)

    def advance(self) -> None:
        """Caught up, its place is the log's end: a scan need not begin where the last message it wanted was."""
        if not self.behind:
            self.next = int(self._backlogs.core.log.end())
        if self._past:
            self._forget_past()

    @property
    def unnoted(self) -> int:
        """By how many messages its row is wrong about what waits, if that is limited."""
        return abs(self.waiting - self._noted) if self.bounds is not None else 0

    def check(self) -> None:
        """Asserts what must always hold between two turns. For tests; walks everything."""
        taken = list(self._open)
        assert taken == sorted(taken), "taken out of order"
        assert not taken or taken[-1] < self.next
        assert not self._done.intersection(self._open)
        assert len(taken) <= self._backlogs.core.settings.cursor_done_max
        assert self.next <= self._backlogs.core.log.end()
        assert self.behind or not self._reading

    def row(self) -> CursorRow:
        """What survives a restart."""
        low = self.low
        row = CursorRow(
            low=low,
            done=tuple(sorted(p for p in self._done if p >= low)),
            filters=dict(self._filters),
            past=dict(self._past),
            left_out=self._left_out.row(),
        )
        if self.bounds is not None and self.waiting:
            # What was taken and comes again after a restart is not among what waits.
            row.waits = (self.waiting, self.waiting_bytes, max(self.next, self._counted), self._counted_to)
        self._noted = self.waiting
        return row
