"""What the log tests share: messages, an opened log that remembers its answers, awaitable reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from dragoman.broker.log.contract import Log, Position, Table, Ticket
from dragoman.routing.message import Bundle, Entry, Envelope, Message
from dragoman.routing.refusals import Refusal
from tests.attributes import attributes

FULL = Envelope(
    sent_ms=1_699_999_999_999,
    key=b"k\x00",
    headers=(("a", b"1"), ("a", None), ("é", b"")),
    content_type="text/plain",
    reply_to="back/here",
    correlation=b"\xff\x00",
    expires_ms=1_800_000_000_000,
    cause="1f-7",
    hops=3,
    text=True,
    raw=b"\x01\x02raw",
    raw_form=2,
)


class WaitingLog(Log, Protocol):
    """A log that can be waited for; both engines can."""

    async def idle(self) -> None: ...


def said(
    number: int,
    offset: int,
    payload: bytes | None = b"hello",
    *,
    sender: str = "",
    retain: bool = False,
    wish: int = 1,
    envelope: Envelope | None = None,
) -> Message:
    message = Message(f"room/{number}", payload, wish, sender, retain, envelope)
    message.number = number
    message.offset = offset
    message.time_ms = 1_700_000_000_000 + offset
    return message


def bundled(number: int, offset: int, count: int, body: bytes = b"batch", *, sender: str = "", kind: int = 1) -> Bundle:
    bundle = Bundle(f"room/{number}", body, kind, count, sender)
    bundle.number = number
    bundle.offset = offset
    bundle.time_ms = 1_700_000_000_000 + offset
    return bundle


def facts(message: Entry) -> tuple[object, ...]:
    """Everything of an entry that must survive."""
    if isinstance(message, Bundle):
        return tuple(getattr(message, slot) for slot in attributes(Bundle))
    envelope = message.envelope
    return (
        message.name,
        message.number,
        message.offset,
        message.time_ms,
        message.position,
        message.payload,
        message.wish,
        message.sender,
        message.retain,
        None if envelope is None else tuple(getattr(envelope, slot) for slot in attributes(Envelope)),
    )


class Opened:
    """An opened log and the answers it gave."""

    def __init__(self, log: WaitingLog) -> None:
        self.log = log
        self.answers: list[tuple[int, Refusal | None]] = []
        self.in_call = False
        log.open(self._committed, self._refused)

    @classmethod
    def of(cls, log: WaitingLog) -> Opened:
        """A log that is open already, for reading."""
        opened = cls.__new__(cls)
        opened.log = log
        return opened

    def _committed(self, ticket: Ticket) -> None:
        assert not self.in_call, "on_commit from within a call"
        self.answers.append((ticket, None))

    def _refused(self, ticket: Ticket, why: Refusal) -> None:
        assert not self.in_call, "on_refused from within a call"
        self.answers.append((ticket, why))

    @property
    def committed(self) -> int:
        return max((ticket for ticket, why in self.answers if why is None), default=0)

    @property
    def refused(self) -> dict[int, Refusal]:
        return {ticket: why for ticket, why in self.answers if why is not None}

    def append(self, message: Entry) -> int:
        self.in_call = True
        ticket = self.log.append(message)
        self.in_call = False
        assert not isinstance(ticket, Refusal), ticket
        return ticket

    def put(self, table: Table, key: bytes, value: bytes | None) -> int:
        self.in_call = True
        ticket = self.log.put(table, key, value)
        self.in_call = False
        return ticket

    async def read(self, number: int, offset: int = 0, max_bytes: int = 1 << 20) -> tuple[list[Entry], int]:
        answer: asyncio.Future[tuple[list[Entry], int]] = asyncio.get_running_loop().create_future()

        def then(messages: Sequence[Entry], following: int) -> None:
            answer.set_result((list(messages), following))

        self.log.read(number, offset, max_bytes, then)
        return await answer

    async def scan(
        self,
        position: int,
        max_bytes: int = 1 << 20,
        wanted: Callable[[int], bool] = lambda number: True,
        numbers: Sequence[int] | None = None,
    ) -> tuple[list[Entry], int]:
        answer: asyncio.Future[tuple[list[Entry], int]] = asyncio.get_running_loop().create_future()

        def then(messages: Sequence[Entry], following: int) -> None:
            answer.set_result((list(messages), following))

        self.log.scan(Position(position), max_bytes, wanted, then, numbers)
        return await answer

    async def all_of(self, number: int, offset: int = 0, max_bytes: int = 1 << 20) -> list[Entry]:
        """Reads a channel to its end, as a cursor would."""
        found: list[Entry] = []
        while True:
            messages, following = await self.read(number, offset, max_bytes)
            if not messages:
                return found
            assert following > offset
            found += messages
            offset = following

    async def all_in_order(
        self,
        position: int = 1,
        max_bytes: int = 1 << 20,
        wanted: Callable[[int], bool] = lambda number: True,
        numbers: Sequence[int] | None = None,
    ) -> list[Entry]:
        """Scans to the end, as a wildcard cursor would."""
        found: list[Entry] = []
        while True:
            messages, following = await self.scan(position, max_bytes, wanted, numbers)
            found += messages
            if not messages and following == self.log.end():
                return found
            assert following > position, (following, position)
            position = following
