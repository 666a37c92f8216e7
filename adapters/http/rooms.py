"""``/v1/rooms``: a fresh private channel with an owner, an invite list and a lease. And who is in any channel."""

from __future__ import annotations

from typing import Final

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
from dragoman.adapters.http.documents import Document, Request
from dragoman.adapters.http.session import RequestSession
from dragoman.broker.rooms import PREFIX, Room
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError


class OpenRequest(Request):
    """A room to be. ``invited`` are agent ids."""

    title: str = ""
    invited: list[str] = []
    lease_ms: int | None = None


class LeaseRequest(Request):
    """A new lease; the configured one without ``lease_ms``."""

    lease_ms: int | None = None


class InviteRequest(Request):
    """Agents to let in as well."""

    agents: list[str]


class RoomDocument(Document):
    """A room. ``name`` is the channel to publish and subscribe to; it closes at ``until_ms`` unless renewed."""

    name: str
    title: str
    owner: str
    opened_ms: int
    until_ms: int
    invited: list[str]


class MemberDocument(Document):
    """An agent with a subscription to exactly this channel."""

    agent: str
    since_ms: int


class MembersDocument(Document):
    """Who is in a channel, in the order they joined."""

    channel: str
    members: list[MemberDocument]


def _session(exchange: Exchange) -> RequestSession:
    return RequestSession(exchange.principal, exchange.agent)


def _name(exchange: Exchange) -> str:
    room = exchange.path("room")
    return room if room.startswith(PREFIX) else PREFIX + room


def _document(room: Room) -> RoomDocument:
    return RoomDocument(
        name=room.name,
        title=room.title,
        owner=room.owner_agent or room.owner,
        opened_ms=room.opened_ms,
        until_ms=room.lease_due_ms,
        invited=sorted(room.invited),
    )


def _lease(lease_ms: int | None) -> int | None:
    if lease_ms is not None and lease_ms < 1:
        raise invalid(f"lease_ms is 1 or more, not {lease_ms}")
    return lease_ms


async def _open(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(OpenRequest)
    room = granted(
        exchange.broker.rooms.open(
            _session(exchange), title=order.title, invited=order.invited, lease_ms=_lease(order.lease_ms)
        )
    )
    headers = {"Location": f"/v1/rooms/{room.name.removeprefix(PREFIX)}"}
    return respond(_document(room), 201, headers)


async def _get(exchange: Exchange) -> web.StreamResponse:
    return respond(_document(granted(exchange.broker.rooms.get(exchange.principal, exchange.agent, _name(exchange)))))


async def _renew(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(LeaseRequest)
    granted(exchange.broker.rooms.renew(_session(exchange), _name(exchange), _lease(order.lease_ms)))
    return await _get(exchange)


async def _invite(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(InviteRequest)
    granted(exchange.broker.rooms.invite(_session(exchange), _name(exchange), order.agents))
    return await _get(exchange)


async def _close(exchange: Exchange) -> web.StreamResponse:
    granted(exchange.broker.rooms.close(_session(exchange), _name(exchange)))
    return nothing()


async def _members(exchange: Exchange) -> web.StreamResponse:
    channel = exchange.text("channel")
    assert channel is not None, "channel is declared as required"
    if not exchange.broker.may_read(_session(exchange), channel):
        raise RefusedError(Refusal(Reason.NOT_AUTHORIZED, f"{exchange.principal.name!r} may not read {shown(channel)}"))
    members = exchange.broker.directory.members(channel)
    return respond(
        MembersDocument(
            channel=channel, members=[MemberDocument(agent=agent, since_ms=since) for agent, since in members]
        )
    )


_ROOM: Final = Parameter("room", "the room's name percent-encoded as one level, or only what follows room/", "level")
_VIEW: Final = Reply(200, "The room", RoomDocument)
_ONE: Final = (_ROOM,)

DEFINITIONS: Final = (
    Definition(
        "POST",
        "/v1/rooms",
        "openRoom",
        "rooms",
        "Open a fresh room",
        _open,
        replies=(Reply(201, "It is open", RoomDocument),),
        body=OpenRequest,
        fields=(AGENT,),
    ),
    Definition(
        "GET",
        "/v1/rooms/{room}",
        "getRoom",
        "rooms",
        "A room you may be in",
        _get,
        replies=(_VIEW,),
        parameters=_ONE,
        fields=(AGENT,),
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/rooms/{room}/renew",
        "renewRoom",
        "rooms",
        "Start the room's lease anew",
        _renew,
        replies=(_VIEW,),
        parameters=_ONE,
        body=LeaseRequest,
        fields=(AGENT,),
        problems=(404,),
    ),
    Definition(
        "POST",
        "/v1/rooms/{room}/invite",
        "invite",
        "rooms",
        "Let more agents in",
        _invite,
        replies=(_VIEW,),
        parameters=_ONE,
        body=InviteRequest,
        fields=(AGENT,),
        problems=(404,),
    ),
    Definition(
        "DELETE",
        "/v1/rooms/{room}",
        "closeRoom",
        "rooms",
        "Close the room; its members are told",
        _close,
        replies=(Reply(204, "It is closed"),),
        parameters=_ONE,
        fields=(AGENT,),
        problems=(404,),
    ),
    Definition(
        "GET",
        "/v1/members",
        "members",
        "rooms",
        "Who is in a channel",
        _members,
        replies=(Reply(200, "Its members", MembersDocument),),
        query=(Parameter("channel", "the channel's name", "channel", required=True),),
        fields=(AGENT,),
    ),
)
