"""Recognises what was published before. One facility; each protocol has its own spelling of (source, key)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, final

from dragoman.broker.log.contract import DONE, Table, Ticket
from dragoman.broker.rows import Row, decode_row, encode_row

if TYPE_CHECKING:
    from dragoman.broker.core import Core
    from dragoman.routing.message import Message


class DedupeRow(Row):
    """Where the first message with this key went, and when it was taken in."""

    number: int = 0
    offset: int = 0
    time_ms: int = 0


class _Seen:
    __slots__ = ("logged", "number", "offset", "ticket", "time_ms")

    def __init__(self, number: int, offset: int, time_ms: int, ticket: Ticket, logged: bool) -> None:
        self.number = number
        self.offset = offset
        self.time_ms = time_ms
        self.ticket = ticket
        self.logged = logged


@final
class Dedupe:
    """Bounded by count and age, oldest first. Rows of logged messages ride in the message's own commit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._committed = 0

    def __len__(self) -> int:
        return len(self._seen)

    def load(self) -> None:
        """Restores the keys of logged messages, oldest first."""
        rows = [(key, decode_row(value, DedupeRow)) for key, value in self._core.log.rows(Table.DEDUPE)]
        for key, row in sorted(rows, key=lambda item: item[1].time_ms):
            self._seen[key] = _Seen(row.number, row.offset, row.time_ms, DONE, logged=True)
        self.trim()

    def original(self, source: str, key: str, message: Message) -> Ticket | None:
        """If this was published before: fills in the original's place and answers the ticket to wait for."""
        seen = self._seen.get(_digest(source, key))
        if seen is None or self._too_old(seen):
            return None
        message.number, message.offset, message.time_ms = seen.number, seen.offset, seen.time_ms
        return seen.ticket if seen.ticket > self._committed else DONE

    def remember(self, source: str, key: str, message: Message, ticket: Ticket) -> None:
        """This message was taken in under the key."""
        digest = _digest(source, key)
        logged = message.position > 0
        seen = _Seen(message.number, message.offset, message.time_ms, ticket, logged)
        self._seen[digest] = seen
        self._seen.move_to_end(digest)
        if logged:
            row = DedupeRow(number=seen.number, offset=seen.offset, time_ms=seen.time_ms)
            self._core.log.put(Table.DEDUPE, digest, encode_row(row))
        self.trim()

    def committed(self, ticket: Ticket) -> None:
        """Everything up to ``ticket`` is safe: duplicates need not wait for it."""
        self._committed = ticket

    def refused(self, ticket: Ticket) -> None:
        """Nothing of commit ``ticket`` was said: its keys are free again."""
        for digest in [d for d, seen in self._seen.items() if seen.ticket == ticket]:
            self._drop(digest)

    def trim(self) -> None:
        """Lets go of the oldest beyond the bounds."""
        while self._seen:
            digest, seen = next(iter(self._seen.items()))
            if len(self._seen) <= self._core.settings.dedupe_max and not self._too_old(seen):
                return
            self._drop(digest)

    def check(self) -> None:
        """Asserts what must always hold between two turns. For tests; walks everything."""
        assert len(self._seen) <= self._core.settings.dedupe_max
        rows = {key for key, _ in self._core.log.rows(Table.DEDUPE)}
        assert rows == {digest for digest, seen in self._seen.items() if seen.logged}

    def _too_old(self, seen: _Seen) -> bool:
        return self._core.now_ms - seen.time_ms > self._core.settings.dedupe_ms

    def _drop(self, digest: bytes) -> None:
        if self._seen.pop(digest).logged:
            self._core.log.put(Table.DEDUPE, digest, None)


def _digest(source: str, key: str) -> bytes:
    """A key of fixed size for any pair; the length in front keeps ("ab", "c") and ("a", "bc") apart."""
    name = source.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(
        len(name).to_bytes(4, "big") + name + key.encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
