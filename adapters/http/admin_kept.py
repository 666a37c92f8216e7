"""``/v1/admin`` of what is kept for those who are away or failed: sessions, groups, shares, dead letters."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Final

from aiohttp import web

from dragoman.adapters.http.admin import LIMIT, read_only
from dragoman.adapters.http.definitions import Exchange, Parameter, respond
from dragoman.adapters.http.documents import Document, MessageDocument, message_document
from dragoman.adapters.http.groups import GroupDocument, group_document
from dragoman.broker.pump import Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.adapters.http.definitions import Definition

LIST_MAX: Final = 1_000
PAGE_BYTES: Final = 1 << 20


class KeptSessionDocument(Document):
    """A session that outlives its connections. ``expires_ms``: wall clock; absent while connected, or if it stays."""

    id: str
    protocol: str
    principal: str
    agent: str
    connected: bool
    filters: list[str]
    unfinished: int
    behind: bool
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
    """What nobody could deal with, and whose it was."""

    group: str
    message: MessageDocument


class DeadLettersDocument(Document):
    """Dead letters of all work groups, oldest first within each."""

    letters: list[DeadLetterDocument]


async def _sessions(exchange: Exchange) -> web.StreamResponse:
    wanted = exchange.text("agent")
    kept = [
        session
        for lister in exchange.broker.kept_sessions.values()
        for session in lister()
        if wanted is None or session.agent == wanted
    ]
    shown = [
        KeptSessionDocument(
            id=session.id,
            protocol=session.protocol,
            principal=session.principal,
            agent=session.agent,
            connected=session.connected,
            filters=list(session.filters[:100]),
            unfinished=session.unfinished,
            behind=session.behind,
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
    limit = exchange.integer("limit") or LIST_MAX
    letters: list[DeadLetterDocument] = []
    for name, channel in _buried(exchange):
        if len(letters) >= limit:
            break
        page = await _page(exchange, channel)
        for message in page.messages[: limit - len(letters)]:
            letters.append(DeadLetterDocument(group=name, message=message_document(message)))
    return respond(DeadLettersDocument(letters=letters))


def _buried(exchange: Exchange) -> list[tuple[str, str]]:
    """(whose, channel) of every place dead letters may be in."""
    broker = exchange.broker
    groups = [*broker.groups.list(), *(mailbox.group for mailbox in broker.mailboxes.list())]
    return [(group.name, group.terms.dead_letter) for group in groups]


async def _page(exchange: Exchange, name: str) -> Page:
    """The oldest page of a channel; administrators see what the gate shows nobody else."""
    channel = exchange.broker.channels.find(name)
    if channel is None:
        return Page([], number=0, next_offset=0, first_offset=0, lost=0)
    found: asyncio.Future[Page] = asyncio.get_running_loop().create_future()

    def then(page: Page) -> None:
        if not found.done():
            found.set_result(page)

    exchange.broker.core.pump.read(channel, None, PAGE_BYTES, then)
    return await found


def _definitions() -> Iterator[Definition]:
    agent = Parameter("agent", "only those of this agent")
    yield read_only("sessions", "keptSessions", "Sessions kept", _sessions, KeptSessionsDocument, agent, LIMIT)
    yield read_only("groups", "adminGroups", "Work groups, shares, mailboxes", _groups, AllGroupsDocument, LIMIT)
    yield read_only("dead-letters", "allDeadLetters", "Dead letters", _dead_letters, DeadLettersDocument, LIMIT)


DEFINITIONS: Final = tuple(_definitions())
