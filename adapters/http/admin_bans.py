"""``/v1/admin`` where it turns somebody out: connections ended, kept sessions forgotten, bans. Each leaves a line."""

from __future__ import annotations

import ipaddress
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
from dragoman.broker.bans import ADDRESS, FOREVER, KINDS, PRINCIPAL, Ban, covers
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from dragoman.broker.session import KeptSessions, Session


DURATION_MS_MAX: Final = 100 * 365 * 86_400_000


class BanDocument(Document):
    """Somebody kept out. Times are ms since the epoch; ``until_ms`` absent: for good. ``by``: whose word it is."""

    kind: str
    who: str
    reason: str
    by: str
    since_ms: int
    until_ms: int | None = None


class BansDocument(Document):
    """Every ban in force, oldest first. ``refused``: how often somebody was kept out since the start."""

    refused: int
    bans: list[BanDocument]


class BanRequest(Request):
    """Whom to keep out: ``kind`` is client, principal or address. ``duration_ms`` absent: for good."""

    kind: str
    who: str
    reason: str = ""
    duration_ms: int | None = None


# -- bans --------------------------------------------------------------------------------------------


async def _bans(exchange: Exchange) -> web.StreamResponse:
    bans = exchange.broker.bans
    found = [_document(ban) for ban in bans.listed()]
    return respond(BansDocument(refused=bans.refused_total, bans=found))


async def _ban(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(BanRequest)
    _kind(order.kind)
    if order.duration_ms is not None and not 0 < order.duration_ms <= DURATION_MS_MAX:
        raise invalid(f"duration_ms is from 1 to {DURATION_MS_MAX}; leave it out for good")
    _spare_the_asker(exchange, order)
    ban, ticket = granted(
        exchange.broker.bans.add(
            order.kind,
            order.who,
            reason=order.reason,
            by=exchange.principal.name,
            duration_ms=order.duration_ms or 0,
        )
    )
    record(exchange, "banned", kind=ban.kind, who=ban.who, reason=ban.reason, duration_ms=order.duration_ms or 0)
    await exchange.broker.safe(ticket)
    return respond(_document(ban), 201)


def _spare_the_asker(exchange: Exchange, order: BanRequest) -> None:
    """Nobody locks himself out by a slip: then nobody might be left to lift the ban."""
    trial = Ban(order.kind, order.who, "", "", 0, FOREVER)
    if order.kind == ADDRESS:
        try:
            trial = trial._replace(who=str(ipaddress.ip_network(order.who, strict=False)))
        except ValueError:
            return
    own_address = covers(trial, exchange.request.remote or "")
    if own_address or (order.kind == PRINCIPAL and order.who == exchange.principal.name):
        detail = f"you are {exchange.principal.name!r} at {exchange.request.remote}: this would lock you out yourself"
        raise RefusedError(Refusal(Reason.CONFLICT, detail))


async def _lift(exchange: Exchange) -> web.StreamResponse:
    kind, who = _kind(exchange.path("kind")), exchange.path("who")
    ticket = granted(exchange.broker.bans.remove(kind, who))
    record(exchange, "ban lifted", kind=kind, who=who)
    await exchange.broker.safe(ticket)
    return nothing()


def _kind(text: str) -> str:
    if text not in KINDS:
        raise invalid(f"kind is one of {', '.join(KINDS)}, not {shown(text)}")
    return text


def _document(ban: Ban) -> BanDocument:
    until_ms = None if ban.until_ms == FOREVER else ban.until_ms
    return BanDocument(
        kind=ban.kind, who=ban.who, reason=ban.reason, by=ban.by, since_ms=ban.since_ms, until_ms=until_ms
    )


# -- connections and what is kept for them -----------------------------------------------------------


async def _disconnect(exchange: Exchange) -> web.StreamResponse:
    wanted = exchange.path("id")
    for session in list(exchange.broker.sessions()):
        if id_of(session) == wanted:
            _end(exchange, session)
            return nothing()
    raise RefusedError(Refusal(Reason.GONE, f"there is no connection {wanted!r} now"))


def _end(exchange: Exchange, session: Session) -> None:
    forget = exchange.flag("forget") is True
    kept = _kept_for(exchange, session) if forget else None
    record(
        exchange,
        "connection ended",
        protocol=session.protocol,
        principal=session.principal.name,
        agent=session.agent,
        forget=forget,
    )
    session.close(Refusal(Reason.DISCONNECTED, "disconnected by the administration"))
    if kept is not None:
        keeper, id_ = kept
        keeper.forget(id_)


def _kept_for(exchange: Exchange, session: Session) -> tuple[KeptSessions, str] | None:
    keeper = exchange.broker.kept_sessions.get(session.protocol)
    if keeper is None:
        return None
    return next(((keeper, kept.id) for kept in keeper.listed() if kept.connection is session), None)


async def _forget(exchange: Exchange) -> web.StreamResponse:
    id_ = exchange.path("id")
    for keeper in exchange.broker.kept_sessions.values():
        kept = next((kept for kept in keeper.listed() if kept.id == id_), None)
        if kept is None:
            continue
        if kept.connection is not None:
            kept.connection.close(Refusal(Reason.DISCONNECTED, "the administration ended the session"))
        keeper.forget(id_)
        record(exchange, "session forgotten", protocol=kept.protocol, session=id_, principal=kept.principal)
        return nothing()
    raise RefusedError(Refusal(Reason.GONE, f"no session {shown(id_)} is kept"))


# -- definitions -------------------------------------------------------------------------------------


def _definitions() -> Iterator[Definition]:
    yield read_only("bans", "bans", "Who is kept out", _bans, BansDocument)
    yield Definition(
        "POST",
        "/v1/admin/bans",
        "ban",
        "admin",
        "Keep a client, principal or address out, and turn out who is inside; replaces an earlier ban of the same",
        only_admin(_ban),
        replies=(Reply(201, "It holds, also after a restart", BanDocument),),
        body=BanRequest,
        problems=(409, 507),
    )
    kind = Parameter("kind", "client, principal or address", "level")
    who = Parameter("who", "as the list of bans names it, percent-encoded but for its slashes", "tail")
    yield Definition(
        "DELETE",
        "/v1/admin/bans/{kind}/{who}",
        "liftBan",
        "admin",
        "Lift a ban",
        only_admin(_lift),
        replies=(Reply(204, "It is lifted"),),
        parameters=(kind, who),
        problems=(410, 507),
    )
    yield Definition(
        "POST",
        "/v1/admin/connections/{id}/disconnect",
        "disconnect",
        "admin",
        "End a connection, in its own protocol's words (MQTT 5.0: DISCONNECT 0x98)",
        only_admin(_disconnect),
        replies=(Reply(204, "It was told"),),
        parameters=(Parameter("id", "as the list of connections names it", "level"),),
        query=(Parameter("forget", "true: the session that is kept for it ends too", "flag"),),
        problems=(410,),
    )
    yield Definition(
        "DELETE",
        "/v1/admin/sessions/{id}",
        "forgetSession",
        "admin",
        "End a session that is kept, and its connection if it has one",
        only_admin(_forget),
        replies=(Reply(204, "It is no more"),),
        parameters=(Parameter("id", "as the list of sessions names it", "level"),),
        problems=(410,),
    )


DEFINITIONS: Final = tuple(_definitions())
