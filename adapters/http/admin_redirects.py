"""``/v1/admin`` where it sends clients to another broker: one, or all, to empty this one. Each leaves a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dragoman.adapters.http.admin import id_of, only_admin, read_only, record
from dragoman.adapters.http.definitions import (
    Definition,
    Exchange,
    Parameter,
    Reply,
    granted,
    invalid,
    nothing,
    respond,
)
from dragoman.adapters.http.documents import Document, Request
from dragoman.broker.redirects import Redirect, Redirectable, reference_problem
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web


PER_S_MAX: Final = 100_000


class RedirectDocument(Document):
    """Where MQTT clients are sent; ``to`` is empty where they may come in. ``since_ms``: ms since the epoch.

    ``waiting``: connected when it began and not told yet.
    """

    to: str
    permanent: bool
    by: str
    since_ms: int
    waiting: int


class RedirectRequest(Request):
    """Where to: servers such as ``b.example:1883``, a space between several. ``permanent``: MQTT 0x9D, otherwise 0x9C.

    ``per_s``: how many of those who are here are told each second.
    """

    to: str
    permanent: bool = False
    per_s: int = 500


class MoveRequest(Request):
    """Where to: servers such as ``b.example:1883``, a space between several. ``permanent``: 0x9D, otherwise 0x9C."""

    to: str
    permanent: bool = False


async def _redirect(exchange: Exchange) -> web.StreamResponse:
    return respond(_document(exchange))


async def _begin(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(RedirectRequest)
    if not 0 < order.per_s <= PER_S_MAX:
        raise invalid(f"per_s is from 1 to {PER_S_MAX}")
    by = exchange.principal.name
    granted(exchange.broker.redirects.begin(order.to, permanent=order.permanent, by=by, per_s=order.per_s))
    record(exchange, "clients are sent elsewhere", to=order.to, permanent=order.permanent, per_s=order.per_s)
    return respond(_document(exchange), 201)


async def _end(exchange: Exchange) -> web.StreamResponse:
    if exchange.broker.redirects.current is None:
        raise RefusedError(Refusal(Reason.GONE, "nobody is sent elsewhere"))
    exchange.broker.redirects.end()
    record(exchange, "clients may come in again")
    return nothing()


async def _move(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(MoveRequest)
    problem = reference_problem(order.to)
    if problem is not None:
        raise invalid(f"to: {problem}")
    wanted = exchange.path("id")
    session = next((session for session in exchange.broker.sessions() if id_of(session) == wanted), None)
    if session is None:
        raise RefusedError(Refusal(Reason.GONE, f"there is no connection {wanted!r} now"))
    if not isinstance(session, Redirectable):
        raise RefusedError(Refusal(Reason.UNSUPPORTED, f"{session.protocol} has no words for going elsewhere"))
    record(exchange, "connection sent elsewhere", agent=session.agent, to=order.to, permanent=order.permanent)
    session.redirect(Redirect(order.to, order.permanent))
    return nothing()


def _document(exchange: Exchange) -> RedirectDocument:
    redirects = exchange.broker.redirects
    there = redirects.current or Redirect("")
    return RedirectDocument(
        to=there.to, permanent=there.permanent, by=there.by, since_ms=there.since_ms, waiting=redirects.waiting
    )


def _definitions() -> Iterator[Definition]:
    yield read_only("redirect", "redirect", "Where MQTT clients are sent", _redirect, RedirectDocument)
    yield Definition(
        "POST",
        "/v1/admin/redirect",
        "redirectAll",
        "admin",
        "Send MQTT clients elsewhere, those who come and those who are here, until it is lifted or the mesh stops",
        only_admin(_begin),
        replies=(Reply(201, "It holds", RedirectDocument),),
        body=RedirectRequest,
    )
    yield Definition(
        "DELETE",
        "/v1/admin/redirect",
        "redirectNobody",
        "admin",
        "Let MQTT clients come in again",
        only_admin(_end),
        replies=(Reply(204, "They may"),),
        problems=(410,),
    )
    yield Definition(
        "POST",
        "/v1/admin/connections/{id}/redirect",
        "redirectOne",
        "admin",
        "Send one client elsewhere (MQTT 5.0: DISCONNECT 0x9C or 0x9D with a Server Reference)",
        only_admin(_move),
        replies=(Reply(204, "It was told"),),
        parameters=(Parameter("id", "as the list of connections names it", "level"),),
        body=MoveRequest,
        problems=(410, 501),
    )


DEFINITIONS: Final = tuple(_definitions())
