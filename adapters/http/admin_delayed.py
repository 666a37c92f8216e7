"""``/v1/admin/delayed``: messages published to ``$delayed/…`` that wait for their time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from dragoman.adapters.http.admin import LIMIT, LIST_MAX, only_admin, read_only, record
from dragoman.adapters.http.definitions import Definition, Exchange, Parameter, Reply, granted, nothing, respond
from dragoman.adapters.http.documents import Document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web


class DelayedDocument(Document):
    """A message that waits. Times are ms since the epoch; ``size`` is what it counts, in bytes."""

    id: str
    channel: str
    principal: str
    agent: str
    said_ms: int
    due_ms: int
    wish: int
    retain: bool
    size: int


class AllDelayedDocument(Document):
    """Messages that wait, the next to go out first, at most ``limit`` of ``total``."""

    total: int
    bytes: int
    messages: list[DelayedDocument]


async def _list(exchange: Exchange) -> web.StreamResponse:
    delayed = exchange.broker.delayed
    found = [
        msgspec.convert(waiting._asdict(), DelayedDocument)
        for waiting in delayed.listed(exchange.integer("limit") or LIST_MAX)
    ]
    return respond(AllDelayedDocument(total=delayed.count, bytes=delayed.bytes, messages=found))


async def _cancel(exchange: Exchange) -> web.StreamResponse:
    id_ = exchange.path("id")
    ticket = granted(exchange.broker.delayed.cancel(id_))
    # Text of peers only in the fields.
    record(exchange, "delayed message cancelled", delayed=id_)
    await exchange.broker.safe(ticket)
    return nothing()


def _definitions() -> Iterator[Definition]:
    yield read_only("delayed", "delayed", "Messages that wait for their time", _list, AllDelayedDocument, LIMIT)
    yield Definition(
        "DELETE",
        "/v1/admin/delayed/{id}",
        "cancelDelayed",
        "admin",
        "Cancel a message that waits",
        only_admin(_cancel),
        replies=(Reply(204, "It will not be said"),),
        parameters=(Parameter("id", "as the list names it", "level"),),
        problems=(410, 507),
    )


DEFINITIONS: Final = tuple(_definitions())
