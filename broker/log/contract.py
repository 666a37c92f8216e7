"""What every log engine promises. One contract, two engines (memory and disk), one test suite run on each.

A log is a sequence of commits. A commit holds messages of any channels and the changes of state rows
that belong to them, and it is there whole or not at all. Everything here is called on the loop's
thread; engines may use threads of their own and come back to the loop to report.

Words: a **ticket** is the number of a commit, from 1 (0 = nothing to wait for). A **position** is a
logged message's place in commit order, from 1, never reused; it orders messages across channels.
An **entry** is a message or a bundle; a bundle of n messages takes n offsets and n positions in a row,
and is stored, given and freed whole. The log never looks into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Final, NewType, Protocol

from dragoman.routing.message import Entry
from dragoman.routing.refusals import Refusal

Ticket = NewType("Ticket", int)
Position = NewType("Position", int)

DONE = Ticket(0)
"""The ticket of something that needs no waiting."""

KEY_BYTES_MAX: Final = 511
"""The longest key of a state row (LMDB's limit). Keys are not empty."""

EVERYTHING: Final = 1 << 63
"""As the offset of ``release``: this creation of the channel is over, its bounds are forgotten, its number is spent."""


class Table(IntEnum):
    """The state tables. Numbers are on disk: append only, never reuse."""

    META = 1
    CHANNELS = 2
    RETAINED = 3
    SESSIONS = 4
    GROUPS = 5
    TIMERS = 6
    DEDUPE = 7
    AGENTS = 8
    CALLS = 9
    ROOMS = 10
    CURSORS = 11
    INFLIGHT = 12
    TOPICS = 13
    PRODUCERS = 14
    COORDINATED = 15
    POSITIONS = 16
    TASKS = 17
    LINKS = 18
    WILLS = 19
    BANS = 20


ReadDone = Callable[[Sequence[Entry], int], None]
"""Called once with the entries found, in order, and where to go on: the next offset or position to ask for.

The first may be a bundle that begins before what was asked for and holds it.
"""


class Log(Protocol):
    """Append a commit, read from a place, keep state rows, free what nobody wants.

    Order of calls: ``open`` once, then anything, then ``close`` once. All on the loop's thread.
    """

    durable: bool
    """Whether a commit survives the process."""

    def open(self, on_commit: Callable[[Ticket], None], on_refused: Callable[[Ticket, Refusal], None]) -> None:
        """Recovers and starts. Raises ``LogError`` with a sentence for the operator if it cannot.

        ``on_commit(t)`` says that every ticket up to and including ``t`` is safe. ``on_refused(t, why)``
        says that commit ``t`` is not, and never will be: nothing of it is in the log. Each ticket that
        held something gets exactly one of the two answers, in ticket order, on the loop's thread and
        never from within a call into the log.
        """

    async def close(self) -> None:
        """Commits what is open, waits for it, reports it and releases everything. Idempotent."""

    # -- writing ---------------------------------------------------------------------------------

    def append(self, entry: Entry) -> Ticket | Refusal:
        """Adds an entry to the open commit and sets its ``position``; ``number`` and ``offset`` are set already.

        Offsets of a channel must rise. The commit goes out by itself at the end of the loop's turn,
        or when the one before it is done. Refused at once when the budget would be broken or the
        log has failed (``STORAGE_FULL``, ``STORAGE_FAILED``); then nothing was added.
        """

    def put(self, table: Table, key: bytes, value: bytes | None) -> Ticket:
        """Sets a state row (None deletes it) in the open commit. The last put of a key in a commit wins.

        Visible to ``get`` and ``rows`` at once, before the commit; if the commit is refused the change
        is kept and rides with the next one, since state rows say how things *are*. Keys ≤ 511 bytes.
        A row put right after an append, without returning to the loop, is in the append's commit, not a later one
        (unless very many bytes of rows were put since).
        """

    def uncommitted_bytes(self) -> int:
        """Bytes appended that no commit has made safe yet. The broker stops reading producers by it."""

    def oldest_uncommitted_ms(self) -> int:
        """Age of the oldest thing waiting for a commit, in milliseconds; 0 if nothing waits."""

    # -- reading ---------------------------------------------------------------------------------

    def read(self, number: int, offset: int, max_bytes: int, then: ReadDone) -> None:
        """Reads committed messages of one channel from ``offset`` on, at most about ``max_bytes`` but at least one.

        ``then(messages, next_offset)`` is called exactly once: at once if everything asked for is in
        memory, otherwise later on the loop. An empty sequence means there is nothing at or after
        ``offset``; then ``next_offset`` is the offset asked for or, if the log starts later, its start.
        """

    def scan(
        self,
        position: Position,
        max_bytes: int,
        wanted: Callable[[int], bool],
        then: ReadDone,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Reads committed messages of all channels in commit order from ``position`` on.

        Only those whose channel number is ``wanted`` are given. ``numbers``, if given, is the complete
        set of channels that could be wanted: the engine may then use its per-channel index instead of
        walking everything. ``then(messages, next_position)``: an empty sequence with a greater
        ``next_position`` means "nothing so far, ask again from there" (work per call is bounded); an
        empty sequence with ``next_position`` = ``end()`` means caught up.
        """

    def end(self) -> Position:
        """The position the next committed message will have: everything before it is committed."""

    def bounds(self, number: int) -> tuple[int, int]:
        """(first offset still here, offset after the last committed) of a channel.

        Equal if everything was released, so that offsets go on after a restart; (0, 0) if it never
        had anything or was released with ``EVERYTHING``.
        """

    def channels(self) -> Iterator[int]:
        """The numbers of all channels that have messages here. Used at start-up."""

    def bytes_of(self, number: int) -> int:
        """Bytes of payload and envelope this channel keeps here."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """A state row as last put, committed or not."""

    def rows(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows of a table whose key begins with ``prefix``, by key, as last put. Do not put while iterating."""

    # -- freeing ---------------------------------------------------------------------------------

    def release(self, number: int, offset: int, position: Position | None = None) -> None:
        """Nobody wants this channel's messages below ``offset`` (and, if given, below ``position``) any more.

        They stop being readable at once, but for those in a bundle that reaches beyond; space comes back
        in the background. Rides with the next
        commit like a state row. With ``EVERYTHING`` the channel is forgotten as well, and nothing may
        be appended to its number again. What is not committed yet is released only by ``EVERYTHING``.
        """

    def bytes_used(self) -> int:
        """Bytes on disk (or in memory) in all, against the budget."""

    def statistics(self) -> dict[str, int]:
        """Plain counters and gauges for the admin endpoint, names with units last."""


class LogError(Exception):
    """The log cannot be opened. The text is a sentence for the operator: what is wrong and what to do."""
