"""``/v1/agents/{agent}/mailbox``: an agent's mail, kept until it is acknowledged, pulled like work from a group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web

from dragoman.adapters.http import deliveries
from dragoman.adapters.http.agents import AGENT_IN_PATH, own, visible
from dragoman.adapters.http.definitions import Definition, Exchange, Parameter, Reply, granted, nothing, respond
from dragoman.adapters.http.documents import Document, Request
from dragoman.adapters.http.session import RequestSession
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.broker.mailbox import Mailbox
    from dragoman.broker.workgroup import WorkGroup


Route = Callable[[Exchange], Awaitable[web.StreamResponse]]


class MailboxDocument(Document):
    """A mailbox and where its mail is. ``messages`` and ``bytes`` are of what is not acknowledged.

    ``pushed``: a connected session of the agent has its mail pushed to it, before anybody who pulls.
    """

    agent: str
    messages: int
    bytes: int
    lease_ms: int
    deliveries_max: int
    dead_letter: str
    ready: int
    leased: int
    delayed: int
    waiting_pulls: int
    pushed: bool


def mailbox_document(mailbox: Mailbox) -> MailboxDocument:
    """A mailbox as JSON."""
    numbers = mailbox.group.statistics()
    terms = mailbox.group.terms
    return MailboxDocument(
        agent=mailbox.agent,
        messages=mailbox.count,
        bytes=mailbox.bytes,
        lease_ms=terms.lease_ms,
        deliveries_max=terms.deliveries_max,
        dead_letter=terms.dead_letter,
        ready=numbers["ready"],
        leased=numbers["leased"],
        delayed=numbers["delayed"],
        waiting_pulls=numbers["waiting_pulls"],
        pushed=mailbox.attached,
    )


def _session(exchange: Exchange) -> RequestSession:
    """The agent of the path asks: it must be the asker's own, unless an administrator looks after it."""
    agent = exchange.path("agent")
    if exchange.principal.admin:
        visible(exchange, agent)
    else:
        own(exchange, agent)
    return RequestSession(exchange.principal, agent)


def _mailbox(exchange: Exchange) -> Mailbox:
    agent = exchange.path("agent")
    mailbox = exchange.broker.mailboxes.get(agent)
    if mailbox is None:
        raise RefusedError(Refusal(Reason.UNKNOWN_GROUP, f"agent {shown(agent)} has no mailbox; PUT opens one"))
    return mailbox


def _find(exchange: Exchange) -> tuple[RequestSession, WorkGroup]:
    return _session(exchange), _mailbox(exchange).group


async def _open(exchange: Exchange) -> web.StreamResponse:
    session = _session(exchange)
    mailbox = granted(exchange.broker.mailboxes.of(session, session.agent))
    await deliveries.confirmed(exchange, mailbox.group.ticket)
    return respond(mailbox_document(mailbox))


async def _get(exchange: Exchange) -> web.StreamResponse:
    _session(exchange)
    return respond(mailbox_document(_mailbox(exchange)))


async def _close(exchange: Exchange) -> web.StreamResponse:
    session = _session(exchange)
    if _mailbox(exchange).attached:
        detail = f"a connected session of {shown(session.agent)} has its mail pushed to it: end that session first"
        raise RefusedError(Refusal(Reason.CONFLICT, detail))
    exchange.broker.mailboxes.close(session.agent)
    return nothing()


async def _pull(exchange: Exchange) -> web.StreamResponse:
    _session(exchange)
    return await deliveries.pull(exchange, _find, _mailbox(exchange).heard)


def _definition(
    method: str,
    path: str,
    name: str,
    summary: str,
    route: Route,
    reply: Reply,
    *,
    body: type[Request] | None = None,
    query: tuple[Parameter, ...] = (),
    problems: tuple[int, ...] = (),
) -> Definition:
    return Definition(
        method,
        f"/v1/agents/{{agent}}/mailbox{path}",
        name,
        "agents",
        summary,
        route,
        replies=(reply,),
        parameters=(AGENT_IN_PATH,),
        query=query,
        body=body,
        problems=(404, *problems),
    )


def _settling(act: Route, path: str, name: str, summary: str, body: type[Request]) -> Definition:
    return _definition("POST", path, name, summary, act, deliveries.SETTLED, body=body)


_VIEW: Final = Reply(200, "The mailbox", MailboxDocument)

DEFINITIONS: Final = (
    _definition(
        "PUT",
        "",
        "openMailbox",
        "Keep what is said to an agent of yours until it is acknowledged; from now on its mail is pulled from here",
        _open,
        _VIEW,
        problems=(504, 507),
    ),
    _definition("GET", "", "getMailbox", "A mailbox and where its mail is", _get, _VIEW),
    _definition(
        "DELETE",
        "",
        "closeMailbox",
        "Want no more mail; what is in the mailbox is gone",
        _close,
        Reply(204, "It is closed"),
        problems=(409,),
    ),
    _definition(
        "POST",
        "/pull",
        "pullMail",
        "Lease mail, waiting for it if need be",
        _pull,
        deliveries.LEASED,
        query=deliveries.PULLING,
        problems=(410,),
    ),
    _settling(
        partial(deliveries.ack, find=_find), "/ack", "ackMail", "Say that mail was dealt with", deliveries.IdsRequest
    ),
    _settling(
        partial(deliveries.extend, find=_find), "/extend", "extendMail", "Ask for more time", deliveries.ExtendRequest
    ),
    _settling(
        partial(deliveries.reject, find=_find),
        "/reject",
        "rejectMail",
        "Say that dealing with it failed; it is delivered again, or becomes a dead letter",
        deliveries.RejectRequest,
    ),
    _definition(
        "GET",
        "/dead-letters",
        "deadMail",
        "Mail that was delivered too often",
        partial(deliveries.dead_letters, find=_find),
        deliveries.DEAD,
        query=(deliveries.OFFSET,),
    ),
)
