"""``/v1/groups``: work shared by several workers, each message to one of them until it is finished."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web

from dragoman.adapters.http import deliveries
from dragoman.adapters.http.definitions import AGENT, Definition, Exchange, Parameter, Reply, granted, nothing, respond
from dragoman.adapters.http.documents import Document, Request
from dragoman.adapters.http.session import RequestSession
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.broker.workgroup import WorkGroup


class GroupRequest(Request):
    """A group to be. What is left out is the default, or what a group that exists has."""

    filter: str
    lease_ms: int | None = None
    deliveries_max: int | None = None
    backoff_ms: int | None = None
    backoff_max_ms: int | None = None
    dead_letter: str | None = None


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
    await deliveries.confirmed(exchange, group.ticket)
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


def _find(exchange: Exchange) -> tuple[RequestSession, WorkGroup]:
    return _session(exchange), _group(exchange)


_GROUP: Final = Parameter("group", "the group's name, percent-encoded as one level", "level")
_ONE: Final = (_GROUP,)
_FIELDS: Final = (AGENT,)
_VIEW: Final = Reply(200, "The group", GroupDocument)

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
        partial(deliveries.pull, find=_find),
        replies=(deliveries.LEASED,),
        parameters=_ONE,
        query=deliveries.PULLING,
        fields=_FIELDS,
        problems=(404, 410),
    ),
    Definition(
        "POST",
        "/v1/groups/{group}/ack",
        "ack",
        "groups",
        "Say that work is done",
        partial(deliveries.ack, find=_find),
        replies=(deliveries.SETTLED,),
        parameters=_ONE,
        body=deliveries.IdsRequest,
        fields=_FIELDS,
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/groups/{group}/extend",
        "extend",
        "groups",
        "Ask for more time",
        partial(deliveries.extend, find=_find),
        replies=(deliveries.SETTLED,),
        parameters=_ONE,
        body=deliveries.ExtendRequest,
        fields=_FIELDS,
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/groups/{group}/reject",
        "reject",
        "groups",
        "Say that work failed; it is delivered again, or becomes a dead letter",
        partial(deliveries.reject, find=_find),
        replies=(deliveries.SETTLED,),
        parameters=_ONE,
        body=deliveries.RejectRequest,
        fields=_FIELDS,
        problems=(404,),
    ),
    Definition(
        "GET",
        "/v1/groups/{group}/dead-letters",
        "deadLetters",
        "groups",
        "Messages of this group that were delivered too often",
        partial(deliveries.dead_letters, find=_find),
        replies=(deliveries.DEAD,),
        parameters=_ONE,
        query=(deliveries.OFFSET,),
        fields=_FIELDS,
        problems=(404,),
    ),
)
