"""What workers do with what a pull gave them: the same for work groups and for mailboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import web

from dragoman.adapters.http.definitions import Exchange, Parameter, Reply, granted, invalid, respond
from dragoman.adapters.http.documents import Document, MessageDocument, PageDocument, Request, message_document
from dragoman.adapters.serving import problems
from dragoman.broker.pump import Page
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.http.session import RequestSession
    from dragoman.broker.jobs import Delivery
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.workgroup import WorkGroup
    from dragoman.routing.message import Message

T = TypeVar("T")

Find = Callable[[Exchange], tuple["RequestSession", "WorkGroup"]]
"""Who asks, and the group they ask of; looked for when the request is complete. Raises RefusedError."""

IDS_MAX: Final = 10_000
"""Delivery ids in one request; ten full pulls."""


class IdsRequest(Request):
    """Deliveries of this group, by the ids the pull gave them."""

    ids: list[str]


class ExtendRequest(Request):
    """More time for deliveries: their leases end so long from now."""

    ids: list[str]
    lease_ms: int


class RejectRequest(Request):
    """Deliveries that failed; again after ``delay_ms``, or after the group's backoff."""

    ids: list[str]
    delay_ms: int | None = None


class DeliveryDocument(Document):
    """A message leased to you. ``count`` 1: for the first time. Ack it by ``delivery`` before the lease ends."""

    delivery: str
    count: int
    lease_ms: int
    message: MessageDocument


class DeliveriesDocument(Document):
    """What a pull got; nothing if nothing came in time."""

    deliveries: list[DeliveryDocument]


class SettledDocument(Document):
    """The ids that were refused, each with why; all others are done."""

    refused: dict[str, problems.Problem]


async def confirmed(exchange: Exchange, ticket: Ticket) -> None:
    """Returns when a new group's own row is safe. Raises RefusedError."""
    within_ms = exchange.surface.settings.confirm_max_ms
    try:
        async with asyncio.timeout(within_ms / 1000):
            await exchange.broker.safe(ticket)
    except TimeoutError:
        raise RefusedError(Refusal(Reason.DEADLINE_PASSED, f"not confirmed within {within_ms} ms")) from None


async def pull(
    exchange: Exchange, find: Find, heard: Callable[[Message], Message] = lambda message: message
) -> web.StreamResponse:
    """Leases messages to whoever asks, shown as ``heard`` makes them."""
    session, group = find(exchange)
    done: asyncio.Future[Sequence[Delivery] | Refusal] = asyncio.get_running_loop().create_future()
    with exchange.surface.attached(session):
        waiting = granted(
            group.pull(
                session,
                exchange.integer("max") or 1,
                lambda result: None if done.done() else done.set_result(result),
                wait_ms=min(exchange.integer("wait_ms") or 0, exchange.surface.settings.wait_max_ms),
                lease_ms=exchange.integer("lease_ms"),
            )
        )
        try:
            deliveries = granted(await done)
        finally:
            if waiting is not None:
                group.cancel(waiting)
    return respond(
        DeliveriesDocument(
            deliveries=[
                DeliveryDocument(
                    delivery=delivery.id,
                    count=delivery.count,
                    lease_ms=delivery.lease_ms,
                    message=message_document(heard(delivery.message)),
                )
                for delivery in deliveries
            ]
        )
    )


async def ack(exchange: Exchange, find: Find) -> web.StreamResponse:
    """The work is done."""
    order = await exchange.document(IdsRequest)
    session, group = find(exchange)
    return _settled(group.ack(session, _ids(order.ids)))


async def extend(exchange: Exchange, find: Find) -> web.StreamResponse:
    """More time for it."""
    order = await exchange.document(ExtendRequest)
    if order.lease_ms < 1:
        raise invalid(f"lease_ms is 1 or more, not {order.lease_ms}")
    session, group = find(exchange)
    return _settled(group.extend(session, _ids(order.ids), order.lease_ms))


async def reject(exchange: Exchange, find: Find) -> web.StreamResponse:
    """It failed."""
    order = await exchange.document(RejectRequest)
    if order.delay_ms is not None and order.delay_ms < 0:
        raise invalid(f"delay_ms is 0 or more, not {order.delay_ms}")
    session, group = find(exchange)
    return _settled(group.reject(session, _ids(order.ids), order.delay_ms))


def _ids(ids: list[str]) -> list[str]:
    if not 0 < len(ids) <= IDS_MAX:
        raise invalid(f"a request names 1 to {IDS_MAX} deliveries, not {len(ids)}")
    return ids


def _settled(refused: dict[str, Refusal]) -> web.StreamResponse:
    return respond(SettledDocument(refused={id_: problems.describe(refusal) for id_, refusal in refused.items()}))


async def dead_letters(exchange: Exchange, find: Find) -> web.StreamResponse:
    """A page of what was delivered too often."""
    session, group = find(exchange)
    settings = exchange.surface.settings
    done: asyncio.Future[Page | Refusal] = asyncio.get_running_loop().create_future()
    group.dead_letters(
        session,
        exchange.integer("offset"),
        settings.page_max_bytes,
        lambda page: None if done.done() else done.set_result(page),
    )
    page = granted(await read_in_time(exchange, done))
    return respond(
        PageDocument(
            channel=group.terms.dead_letter,
            number=f"{page.number:x}",
            first_offset=page.first_offset,
            next_offset=page.next_offset,
            messages=[message_document(letter) for letter in page.messages],
            lost=page.lost,
        )
    )


async def read_in_time(exchange: Exchange, done: asyncio.Future[T]) -> T:
    """What a read of the log gives. Raises RefusedError when that takes too long."""
    try:
        async with asyncio.timeout(exchange.surface.settings.confirm_max_ms / 1000):
            return await done
    except TimeoutError:
        raise RefusedError(Refusal(Reason.BUSY, "the log takes too long to read", 1_000)) from None


PULLING: Final = (
    Parameter("max", "the most messages; 1 if not given", "integer", low=1, high=1_000),
    Parameter("wait_ms", "if there is nothing yet, wait so long for something", "integer", high=86_400_000),
    Parameter("lease_ms", "how long they are yours; as the group says if not given", "integer", low=1),
)
OFFSET: Final = Parameter("offset", "begin here in the dead letters' channel", "integer")
LEASED: Final = Reply(200, "Leased to you", DeliveriesDocument)
SETTLED: Final = Reply(200, "Done, but for those that are named", SettledDocument)
DEAD: Final = Reply(200, "A page of dead letters", PageDocument)
