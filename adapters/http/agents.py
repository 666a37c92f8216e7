"""``/v1/agents``: register a card with a lease, find agents, hear how the directory changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from dragoman.adapters.http.definitions import (
    ACCEPT,
    Definition,
    Exchange,
    Parameter,
    Reply,
    granted,
    invalid,
    nothing,
    respond,
)
from dragoman.adapters.http.documents import Document, GapDocument, Request
from dragoman.adapters.http.session import StreamSession
from dragoman.adapters.http.streams import LAST_EVENT_ID, RETRY_MS, STREAM_REPLY, end, gap
from dragoman.adapters.serving.sse import (
    KEEP_ALIVE,
    EventWriter,
    PeerGoneError,
    frame,
    last_event_id,
    retry,
    wants_events,
)
from dragoman.broker.presence import Agent, State
from dragoman.routing.cards import Query, card_json, parse_card
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dragoman.broker.history import Change

FOUND_MAX: Final = 1_000
CHANGES_AT_ONCE: Final = 500
LEASE_MAX_MS: Final = 365 * 24 * 3600 * 1000


class RegisterRequest(Request):
    """A card, as an A2A Agent Card or ``{"name": …, "skills": [{"name": …}]}``, and how long it stays unrenewed."""

    card: dict[str, object]
    lease_ms: int | None = None


class RenewRequest(Request):
    """A sign of life. Without ``lease_ms`` the lease is the configured one."""

    lease_ms: int | None = None


class LimitRequest(Request):
    """How many calls the agent works on at once: 0 declares it busy, null means any number."""

    work_limit: int | None


class RegisteredDocument(Document):
    """The directory's revision after the change."""

    agent: str
    revision: int


class AgentDocument(Document):
    """An agent as the mesh sees it. ``state`` is online, busy, asleep, lost or gone; the card is its own words."""

    agent: str
    state: str
    since_ms: int
    via: str = ""
    session: int = 0
    load: int = 0
    work_limit: int | None = None
    card: dict[str, object] | None = None


class AgentsDocument(Document):
    """Agents, best first, as of ``revision``: watch from there."""

    revision: int
    agents: list[AgentDocument]


class ChangeDocument(Document):
    """What changed of an agent: its state, its card, or that it was removed."""

    agent: str
    what: str
    state: str
    revision: int


def agent_document(agent: Agent) -> AgentDocument:
    """An agent as JSON."""
    return AgentDocument(
        agent=agent.id,
        state=agent.state.value,
        since_ms=agent.since_ms,
        via=agent.via,
        session=agent.session_number,
        load=agent.load,
        work_limit=agent.limit,
        card=None if agent.card is None else card_json(agent.card),
    )


def visible(exchange: Exchange, agent: str) -> Agent:
    """The agent, if it is here and the asker may know. Raises RefusedError."""
    directory = exchange.broker.directory
    entry = directory.get(agent)
    if entry is None or not directory.sees(exchange.principal, agent):
        raise RefusedError(Refusal(Reason.UNKNOWN_AGENT, f"no agent {shown(agent)} is here"))
    return entry


def own(exchange: Exchange, agent: str) -> Agent:
    """The agent, if it belongs to the asker. Raises RefusedError."""
    entry = visible(exchange, agent)
    if entry.principal_name != exchange.principal.name:
        raise RefusedError(Refusal(Reason.AGENT_TAKEN, f"agent {shown(agent)} belongs to another principal"))
    return entry


async def _register(exchange: Exchange) -> web.StreamResponse:
    agent = exchange.path("agent")
    order = await exchange.document(RegisterRequest)
    card = granted(parse_card(order.card, agent))
    _check_lease(order.lease_ms)
    directory = exchange.broker.directory
    revision = granted(directory.register(exchange.principal, agent, card, lease_ms=order.lease_ms, via="http"))
    return respond(RegisteredDocument(agent=agent, revision=revision))


async def _renew(exchange: Exchange) -> web.StreamResponse:
    agent = exchange.path("agent")
    order = await exchange.document(RenewRequest)
    _check_lease(order.lease_ms)
    revision = granted(exchange.broker.directory.renew(exchange.principal, agent, lease_ms=order.lease_ms))
    return respond(RegisteredDocument(agent=agent, revision=revision))


async def _unregister(exchange: Exchange) -> web.StreamResponse:
    granted(exchange.broker.directory.unregister(exchange.principal, exchange.path("agent")))
    return nothing()


async def _limit(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(LimitRequest)
    agent = own(exchange, exchange.path("agent"))
    granted(exchange.broker.directory.set_limit(agent.id, order.work_limit))
    return respond(agent_document(agent))


async def _get(exchange: Exchange) -> web.StreamResponse:
    return respond(agent_document(visible(exchange, exchange.path("agent"))))


async def _find(exchange: Exchange) -> web.StreamResponse:
    if exchange.flag("watch"):
        if not wants_events(exchange.header("Accept") or "text/event-stream"):
            raise invalid("a watch is text/event-stream, which Accept does not take")
        return await _watch(exchange)
    query = Query(
        skill=exchange.text("skill"), tag=exchange.text("tag"), text=exchange.text("text"), state=exchange.text("state")
    )
    directory = exchange.broker.directory
    found = directory.find(exchange.principal, query)[: exchange.integer("limit") or FOUND_MAX]
    return respond(AgentsDocument(revision=directory.revision, agents=[agent_document(agent) for agent in found]))


async def _watch(exchange: Exchange) -> web.StreamResponse:
    """Streams changes. There is no queue: the stream keeps a revision and reads the directory's past from there."""
    surface, directory = exchange.surface, exchange.broker.directory
    said = last_event_id(exchange.request.headers)
    if said and not (said.isascii() and said.isdigit() and len(said) < 20):
        raise invalid(f"Last-Event-ID is a revision of the directory, not {said!r}")
    revision = int(said) if said else exchange.integer("revision")
    session = StreamSession(exchange.broker, exchange.principal, "", surface.settings)
    writer = EventWriter(exchange.request, stall_s=surface.settings.stall_max_ms / 1000)
    with surface.streaming(session):
        unwatch = directory.watch(lambda change: session.wake())
        try:
            await writer.open()
            await writer.send(retry(RETRY_MS))
            await _tell_changes(exchange, session, writer, directory.revision if revision is None else revision)
            await writer.close()
        except PeerGoneError:
            return writer.response
        finally:
            unwatch()
    return writer.response


async def _tell_changes(exchange: Exchange, session: StreamSession, writer: EventWriter, revision: int) -> None:
    directory = exchange.broker.directory
    while session.ended is None:
        changes = directory.since(revision)
        if changes is None:
            revision = directory.revision
            detail = "the changes since that revision are no longer known; ask for all agents again"
            await writer.send(gap(GapDocument(detail=detail)))
            continue
        if changes:
            batch = changes[:CHANGES_AT_ONCE]
            revision = batch[-1].revision
            frames = b"".join(_change(change) for change in batch if directory.sees(exchange.principal, change.agent))
            if frames:
                await writer.send(frames)
            continue
        session.take()
        if not await session.wait(exchange.surface.settings.keep_alive_ms):
            await writer.send(KEEP_ALIVE)
    await writer.send(end(session.ended))


def _change(change: Change) -> bytes:
    document = ChangeDocument(agent=change.agent, what=change.what.value, state=change.state, revision=change.revision)
    return frame(msgspec.json.encode(document), event="change", id=str(change.revision))


def _check_lease(lease_ms: int | None) -> None:
    if lease_ms is not None and not 0 < lease_ms <= LEASE_MAX_MS:
        raise invalid(f"lease_ms is from 1 to {LEASE_MAX_MS}, not {lease_ms}")


AGENT_IN_PATH: Final = Parameter("agent", "the agent's id, percent-encoded as one level", "agent")
_KNOWN: Final = (403, 404)


def _definition(
    method: str,
    path: str,
    name: str,
    summary: str,
    route: Callable[[Exchange], Awaitable[web.StreamResponse]],
    reply: Reply,
    body: type[Request] | None = None,
) -> Definition:
    return Definition(
        method,
        path,
        name,
        "agents",
        summary,
        route,
        replies=(reply,),
        parameters=(AGENT_IN_PATH,),
        body=body,
        problems=(*_KNOWN, 410),
    )


_REGISTERED: Final = Reply(200, "The directory's revision", RegisteredDocument)
_AGENT: Final = Reply(200, "The agent", AgentDocument)

DEFINITIONS: Final = (
    Definition(
        "GET",
        "/v1/agents",
        "findAgents",
        "agents",
        "Find agents, or watch the directory change",
        _find,
        replies=(Reply(200, "Agents that fit", AgentsDocument), STREAM_REPLY),
        query=(
            Parameter("skill", "has a skill of exactly this name"),
            Parameter("tag", "it or one of its skills has this tag"),
            Parameter("text", "words that all occur in its id or card"),
            Parameter("state", "is in this state", choices=tuple(state.value for state in State)),
            Parameter("limit", "the most agents in the answer", "integer", low=1, high=10_000),
            Parameter("watch", "true: a stream of changes instead", "flag"),
            Parameter("revision", "of a watch: begin with the changes after this revision", "integer"),
        ),
        fields=(ACCEPT, LAST_EVENT_ID),
    ),
    _definition("GET", "/v1/agents/{agent}", "getAgent", "One agent", _get, _AGENT),
    _definition(
        "PUT",
        "/v1/agents/{agent}",
        "registerAgent",
        "Say what an agent of yours is and can do",
        _register,
        _REGISTERED,
        RegisterRequest,
    ),
    _definition(
        "DELETE", "/v1/agents/{agent}", "unregisterAgent", "Take the card away", _unregister, Reply(204, "Done")
    ),
    _definition(
        "POST",
        "/v1/agents/{agent}/renew",
        "renewAgent",
        "Start the card's lease anew",
        _renew,
        _REGISTERED,
        RenewRequest,
    ),
    _definition(
        "PUT",
        "/v1/agents/{agent}/limit",
        "limitAgent",
        "Say how many calls the agent works on at once",
        _limit,
        _AGENT,
        LimitRequest,
    ),
)
