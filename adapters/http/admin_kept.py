"""``/v1/admin`` of what is kept for those who are away or failed: sessions, groups, shares, dead letters."""

from __future__ import annotations

import asyncio
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from aiohttp import web

from dragoman.adapters.http.admin import LIMIT, read_only
from dragoman.adapters.http.definitions import Exchange, Parameter, invalid, respond
from dragoman.adapters.http.deliveries import read_in_time
from dragoman.adapters.http.documents import Document, MessageDocument, message_document
from dragoman.adapters.http.groups import GroupDocument, group_document
from dragoman.broker.dead_letters import DEAD_COUNT, DEAD_GROUP, DEAD_REASON
from dragoman.routing.message import EMPTY
from dragoman.routing.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dragoman.adapters.http.definitions import Definition
    from dragoman.broker.pump import Page
    from dragoman.routing.message import Message

LIST_MAX: Final = 1_000
PAGE_BYTES: Final = 1 << 20
LOOKED_AT_MAX: Final = 10_000
"""Messages, also those that are no dead letters, in a channel that is used for other things too."""
OFFSET_DIGITS_MAX: Final = 19


class KeptSessionDocument(Document):
    """A session that outlives its connections. ``expires_ms``: wall clock; absent while connected, or if it stays.

    ``waiting``: messages that have come since the mesh started or it fell behind; ``lost`` to a limit since then.
    """

    id: str
    protocol: str
    principal: str
    agent: str
    connected: bool
    filters: list[str]
    unfinished: int
    behind: bool
    waiting: int
    lost: int
    expires_ms: int | None = None


class KeptSessionsDocument(Document):
    """Sessions kept for clients, whether they are connected or away."""

    total: int
    sessions: list[KeptSessionDocument]


class ShareDocument(Document):
    """A shared subscription and its members."""

    group: str
    filter: str
    members: list[str]


class AllGroupsDocument(Document):
    """Every work group, shared subscription and mailbox."""

    groups: list[GroupDocument]
    shares: list[ShareDocument]
    mailboxes: list[GroupDocument]


class DeadLetterDocument(Document):
    """What nobody could deal with, which group gave up, why, and after how many deliveries."""

    group: str
    reason: str
    deliveries: int
    message: MessageDocument


class DeadLettersDocument(Document):
    """Dead letters by channel, oldest first within each. ``next``: there may be more, also after an empty page."""

    letters: list[DeadLetterDocument]
    next: str | None = None


async def _sessions(exchange: Exchange) -> web.StreamResponse:
    wanted = exchange.text("agent")
    kept = [
        session
        for lister in exchange.broker.kept_sessions.values()
        for session in lister.listed()
        if wanted is None or session.agent == wanted
    ]
    shown = [
        KeptSessionDocument(
            id=session.id,
            protocol=session.protocol,
            principal=session.principal,
            agent=session.agent,
            connected=session.connection is not None,
            filters=list(session.filters[:100]),
            unfinished=session.unfinished,
            behind=session.behind,
            waiting=session.waiting,
            lost=session.lost,
            expires_ms=session.expires_ms,
        )
        for session in kept[: exchange.integer("limit") or LIST_MAX]
    ]
    return respond(KeptSessionsDocument(total=len(kept), sessions=shown))


async def _groups(exchange: Exchange) -> web.StreamResponse:
    limit = exchange.integer("limit") or LIST_MAX
    broker = exchange.broker
    return respond(
        AllGroupsDocument(
            groups=[group_document(group) for group in islice(broker.groups.list(), limit)],
            shares=[
                ShareDocument(group=share.group, filter=share.filter, members=list(islice(share.members, 100)))
                for share in islice(broker.groups.list_shares(), limit)
            ],
            mailboxes=[group_document(mailbox.group) for mailbox in islice(broker.mailboxes.list(), limit)],
        )
    )


async def _dead_letters(exchange: Exchange) -> web.StreamResponse:
    """One page: full in letters or bytes, or enough was looked at. Nothing is remembered until the next."""
    limit = exchange.integer("limit") or LIST_MAX
    begin, offset = _place(exchange.text("after"))
    letters: list[DeadLetterDocument] = []
    size = looked = 0
    for name in _graves(exchange, begin):
        place = offset if name == begin else 0
        while page := await _read(exchange, name, place):
            for message in page:
                if len(letters) >= limit or size >= PAGE_BYTES or looked >= LOOKED_AT_MAX:
                    return respond(DeadLettersDocument(letters=letters, next=f"{name}@{message.offset}"))
                looked += 1
                place = message.offset + 1
                letter = _letter(message)
                if letter is not None:
                    letters.append(letter)
                    size += len(message.payload or b"")
            await asyncio.sleep(0)
    return respond(DeadLettersDocument(letters=letters))


def _place(text: str | None) -> tuple[str, int]:
    """(channel, offset) to go on at."""
    if text is None:
        return "", 0
    name, at, offset = text.rpartition("@")
    if not at or not (offset.isascii() and offset.isdigit() and len(offset) <= OFFSET_DIGITS_MAX):
        raise invalid(f"after is what `next` of the page before said, not {shown(text)}")
    return name, int(offset)


def _graves(exchange: Exchange, begin: str) -> list[str]:
    """The channels that dead letters are in, from ``begin`` on. Several groups may share one."""
    broker = exchange.broker
    groups = chain(broker.groups.list(), (mailbox.group for mailbox in broker.mailboxes.list()))
    named = {group.terms.dead_letter for group in groups}
    return sorted(name for name in named if name >= begin and broker.channels.find(name) is not None)


def _letter(message: Message) -> DeadLetterDocument | None:
    """None: the channel is also used for something else, and this is no dead letter."""
    envelope = message.envelope or EMPTY
    group, reason, count = (envelope.header(name) for name in (DEAD_GROUP, DEAD_REASON, DEAD_COUNT))
    if group is None or reason is None or count is None or not count.isdigit():
        return None
    return DeadLetterDocument(
        group=group.decode("utf-8", "replace"),
        reason=reason.decode("utf-8", "replace"),
        deliveries=int(count),
        message=message_document(message),
    )


async def _read(exchange: Exchange, name: str, offset: int) -> Sequence[Message]:
    """Some messages of a channel; administrators see what the gate shows nobody else."""
    channel = exchange.broker.channels.find(name)
    if channel is None:
        return ()
    found: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
    exchange.broker.core.pump.read(
        channel, offset, PAGE_BYTES, lambda page: None if found.done() else found.set_result(page)
    )
    return (await read_in_time(exchange, found)).messages


def _definitions() -> Iterator[Definition]:
    agent = Parameter("agent", "only those of this agent")
    yield read_only("sessions", "keptSessions", "Sessions kept", _sessions, KeptSessionsDocument, agent, LIMIT)
    yield read_only("groups", "adminGroups", "Work groups, shares, mailboxes", _groups, AllGroupsDocument, LIMIT)
    after = Parameter("after", "go on where the page before said `next`")
    yield read_only("dead-letters", "allDeadLetters", "Dead letters", _dead_letters, DeadLettersDocument, after, LIMIT)


DEFINITIONS: Final = tuple(_definitions())
