"""``/v1/groups``: work shared by several workers, each message to one of them until it is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from aiohttp import web

from dragoman.adapters.http.definitions import (
    AGENT,
    Definition,
    Exchange,
    Parameter,
    Reply,
    granted,
    invalid,
    nothing,
    respond,
)
from dragoman.adapters.http.documents import Document, MessageDocument, PageDocument, Request, message_document
from dragoman.adapters.http.session import RequestSession
from dragoman.adapters.serving import problems
from dragoman.broker.pump import Page
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.broker.jobs import Delivery
    from dragoman.broker.workgroup import WorkGroup

IDS_MAX: Final = 10_000
"""Delivery ids in one request; ten full pulls."""


class GroupRequest(Request):
    """A group to be. What is left out is the default, or what a group that exists has."""

    filter: str
    lease_ms: int | None = None
    deliveries_max: int | None = None
    backoff_ms: int | None = None
    backoff_max_ms: int | None = None
    dead_letter: str | None = None


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


class GroupDocument(Document):
    """A work group: its terms, and where its messages are. ``behind``: there is more in the log."""

    name: str
    filter: str
    owner: str
    lease_ms: int
    deliveries_max: int
    backoff_ms: int
    backoff_max_ms: int
    dead_letter: str
    ready: int
    leased: int
    delayed: int
    waiting_pulls: int
    behind: bool


class GroupsDocument(Document):
    """Groups you may pull from."""

    groups: list[GroupDocument]


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


def group_document(group: WorkGroup) -> GroupDocument:
    """A work group as JSON."""
    numbers = group.statistics()
    terms = group.terms
    return GroupDocument(
        name=group.name,
        filter=group.filter,
        owner=group.owner.name,
        lease_ms=terms.lease_ms,
        deliveries_max=terms.deliveries_max,
        backoff_ms=terms.backoff_ms,
        backoff_max_ms=terms.backoff_max_ms,
        dead_letter=terms.dead_letter,
        ready=numbers["ready"],
        leased=numbers["leased"],
        delayed=numbers["delayed"],
        waiting_pulls=numbers["waiting_pulls"],
        behind=bool(numbers["behind"]),
    )


def _session(exchange: Exchange) -> RequestSession:
    return RequestSession(exchange.principal, exchange.agent)


def _group(exchange: Exchange) -> WorkGroup:
    """The group of the path. Whoever may not pull from it learns nothing of it either."""
    name = exchange.path("group")
    group = exchange.broker.groups.get(name)
    if group is None:
        raise RefusedError(Refusal(Reason.UNKNOWN_GROUP, f"there is no group {shown(name)}"))
    refusal = group.guard(_session(exchange)) if group.guard is not None else None
    if refusal is not None:
        raise RefusedError(refusal)
    return group


async def _open(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(GroupRequest)
    group = granted(
        exchange.broker.groups.open(
            _session(exchange),
            exchange.path("group"),
            order.filter,
            lease_ms=order.lease_ms,
            deliveries_max=order.deliveries_max,
            backoff_ms=order.backoff_ms,
            backoff_max_ms=order.backoff_max_ms,
            dead_letter=order.dead_letter,
        )
    )
    within_ms = exchange.surface.settings.confirm_max_ms
    try:
        async with asyncio.timeout(within_ms / 1000):
            await exchange.broker.safe(group.ticket)
    except TimeoutError:
        raise RefusedError(Refusal(Reason.DEADLINE_PASSED, f"not confirmed within {within_ms} ms")) from None
    return respond(group_document(group))


async def _list(exchange: Exchange) -> web.StreamResponse:
    session = _session(exchange)
    groups = [g for g in exchange.broker.groups.list() if g.guard is None or g.guard(session) is None]
    return respond(GroupsDocument(groups=[group_document(group) for group in groups]))


async def _get(exchange: Exchange) -> web.StreamResponse:
    return respond(group_document(_group(exchange)))


async def _close(exchange: Exchange) -> web.StreamResponse:
    granted(exchange.broker.groups.close(_session(exchange), exchange.path("group")))
    return nothing()


async def _pull(exchange: Exchange) -> web.StreamResponse:
    session = _session(exchange)
    group = _group(exchange)
    done: asyncio.Future[Sequence[Delivery] | Refusal] = asyncio.get_running_loop().create_future()
    with exchange.surface.attached(session):
        pull = granted(
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
            if pull is not None:
                group.cancel(pull)
    return respond(
        DeliveriesDocument(
            deliveries=[
                DeliveryDocument(
                    delivery=delivery.id,
                    count=delivery.count,
                    lease_ms=delivery.lease_ms,
                    message=message_document(delivery.message),
                )
                for delivery in deliveries
            ]
        )
    )


async def _ack(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(IdsRequest)
    return _settled(_group(exchange).ack(_session(exchange), _ids(order.ids)))


async def _extend(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(ExtendRequest)
    if order.lease_ms < 1:
        raise invalid(f"lease_ms is 1 or more, not {order.lease_ms}")
    return _settled(_group(exchange).extend(_session(exchange), _ids(order.ids), order.lease_ms))


async def _reject(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(RejectRequest)
    if order.delay_ms is not None and order.delay_ms < 0:
        raise invalid(f"delay_ms is 0 or more, not {order.delay_ms}")
    return _settled(_group(exchange).reject(_session(exchange), _ids(order.ids), order.delay_ms))


def _ids(ids: list[str]) -> list[str]:
    if not 0 < len(ids) <= IDS_MAX:
        raise invalid(f"a request names 1 to {IDS_MAX} deliveries, not {len(ids)}")
    return ids


def _settled(refused: dict[str, Refusal]) -> web.StreamResponse:
    return respond(SettledDocument(refused={id_: problems.describe(refusal) for id_, refusal in refused.items()}))


async def _dead_letters(exchange: Exchange) -> web.StreamResponse:
    group = _group(exchange)
    settings = exchange.surface.settings
    done: asyncio.Future[Page | Refusal] = asyncio.get_running_loop().create_future()
    group.dead_letters(
        _session(exchange),
        exchange.integer("offset"),
        settings.page_max_bytes,
        lambda page: None if done.done() else done.set_result(page),
    )
    try:
        async with asyncio.timeout(settings.confirm_max_ms / 1000):
            page = granted(await done)
    except TimeoutError:
        raise RefusedError(Refusal(Reason.BUSY, "the log takes too long to read", 1_000)) from None
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


_GROUP: Final = Parameter("group", "the group's name, percent-encoded as one level", "level")
_ONE: Final = (_GROUP,)
_FIELDS: Final = (AGENT,)
_VIEW: Final = Reply(200, "The group", GroupDocument)
_SETTLED: Final = Reply(200, "Done, but for those that are named", SettledDocument)

DEFINITIONS: Final = (
    Definition(
        "GET",
        "/v1/groups",
        "listGroups",
        "groups",
        "The groups you may pull from",
        _list,
        replies=(Reply(200, "Groups", GroupsDocument),),
        fields=_FIELDS,
    ),
    Definition(
        "PUT",
        "/v1/groups/{group}",
        "openGroup",
        "groups",
        "Make a group, which takes what is published from now on, or get the one there is",
        _open,
        replies=(_VIEW,),
        parameters=_ONE,
        body=GroupRequest,
        fields=_FIELDS,
        problems=(409, 504, 507),
    ),
    Definition(
        "GET",
        "/v1/groups/{group}",
        "getGroup",
        "groups",
        "A group and where its messages are",
        _get,
        replies=(_VIEW,),
        parameters=_ONE,
        fields=_FIELDS,
        problems=(404,),
    ),
    Definition(
        "DELETE",
        "/v1/groups/{group}",
        "closeGroup",
        "groups",
        "End a group; what it has not finished is nobody's then",
        _close,
        replies=(Reply(204, "It is closed"),),
        parameters=_ONE,
        fields=_FIELDS,
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/groups/{group}/pull",
        "pull",
        "groups",
        "Lease messages, waiting for them if need be",
        _pull,
        replies=(Reply(200, "Leased to you", DeliveriesDocument),),
        parameters=_ONE,
        query=(
            Parameter("max", "the most messages; 1 if not given", "integer", low=1, high=1_000),
            Parameter("wait_ms", "if there is nothing yet, wait so long for something", "integer", high=86_400_000),
            Parameter("lease_ms", "how long they are yours; as the group says if not given", "integer", low=1),
        ),
        fields=_FIELDS,
        problems=(404, 410),
    ),
    Definition(
        "POST",
        "/v1/groups/{group}/ack",
        "ack",
        "groups",
        "Say that work is done",
        _ack,
        replies=(_SETTLED,),
        parameters=_ONE,
        body=IdsRequest,
        fields=_FIELDS,
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/groups/{group}/extend",
        "extend",
        "groups",
        "Ask for more time",
        _extend,
        replies=(_SETTLED,),
        parameters=_ONE,
        body=ExtendRequest,
        fields=_FIELDS,
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/groups/{group}/reject",
        "reject",
        "groups",
        "Say that work failed; it is delivered again, or becomes a dead letter",
        _reject,
        replies=(_SETTLED,),
        parameters=_ONE,
        body=RejectRequest,
        fields=_FIELDS,
        problems=(404,),
    ),
    Definition(
        "GET",
        "/v1/groups/{group}/dead-letters",
        "deadLetters",
        "groups",
        "Messages of this group that were delivered too often",
        _dead_letters,
        replies=(Reply(200, "A page of dead letters", PageDocument),),
        parameters=_ONE,
        query=(Parameter("offset", "begin here in the dead letters' channel", "integer"),),
        fields=_FIELDS,
        problems=(404,),
    ),
)
