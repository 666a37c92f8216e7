"""``/v1/admin``: what the mesh is doing, for those the gate lets administer it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from dragoman.adapters.http.agents import AgentDocument, AgentsDocument, agent_document
from dragoman.adapters.http.channels import channel_document
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
from dragoman.adapters.http.documents import ChannelDocument, ChannelsDocument, Document, Request
from dragoman.broker.gate import Action
from dragoman.broker.principal import MESH
from dragoman.broker.session import Reached
from dragoman.routing.cards import Query
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.broker.session import Session

logger: Final = logging.getLogger("dragoman.admin")

LIST_MAX: Final = 1_000
Route = Callable[[Exchange], Awaitable[web.StreamResponse]]


class StatusDocument(Document):
    """The mesh in one look. ``durable``: what is acknowledged survives the process. Counters are in /metrics."""

    version: str
    now_ms: int
    durable: bool
    saturated: bool
    sessions: int
    channels: int
    subscriptions: int
    log_bytes_used: int
    log_uncommitted_bytes: int
    log_oldest_uncommitted_ms: int


class CountersDocument(Document):
    """Counters and gauges of the log, units last in their names."""

    statistics: dict[str, int]


class ConnectionDocument(Document):
    """A session attached now. ``id`` names it for as long as it lasts.

    ``behind``: it is slower than what is said to it; the mesh keeps its places and goes on when it has room again.
    ``listener`` and ``peer`` (address and port, a relay's word counts) are told of MQTT connections.
    """

    id: str
    protocol: str
    principal: str
    agent: str
    subscriptions: list[str]
    behind: bool
    listener: str = ""
    peer: str = ""


class ConnectionsDocument(Document):
    """The sessions attached now, at most ``limit`` of ``total``."""

    total: int
    connections: list[ConnectionDocument]


class SlowReaderDocument(Document):
    """A reader that is behind; ``id`` is its connection's. ``since_ms``: ms since the epoch, by the looks every 5 s.

    ``messages`` are not read yet, of about so many ``bytes``; ``lost`` were gone before it could read them.
    """

    id: str
    protocol: str
    principal: str
    agent: str
    since_ms: int
    messages: int
    bytes: int
    lost: int


class SlowReadersDocument(Document):
    """Readers that are behind, the longest first, at most ``limit`` of ``total``; ``slow`` are so for too long."""

    total: int
    slow: int
    readers: list[SlowReaderDocument]


class SettingDocument(Document):
    """One value in force and where it came from: a file and line, a flag, or the default."""

    key: str
    value: object
    origin: str


class ConfigDocument(Document):
    """Every setting. Secrets are hidden."""

    settings: list[SettingDocument]


class LinkDocument(Document):
    """A connection the mesh opens. ``error`` is the last one, also once it is up again; times are ms since the epoch.

    ``waiting``: on their way and not acknowledged. ``lag``: at most so many wait behind them; null = not known.
    """

    name: str
    kind: str
    address: str
    state: str
    since_ms: int
    error: str
    error_ms: int
    connects: int
    pulled: int
    pull_waiting: int
    pull_lag: int | None
    pushed: int
    push_waiting: int
    push_lag: int
    duplicates: int
    dropped: dict[str, int]


class LinksDocument(Document):
    """Every configured link."""

    links: list[LinkDocument]


class ReloadDocument(Document):
    """What a reload did, by keys: ``changed`` are in force now, ``restart`` will be after a restart only.

    ``tls``: listeners whose certificates, client CAs and revocation lists were read again, changed or not.
    ``ended``: sessions that were ended, since the login they came by is no more.
    """

    changed: list[str]
    restart: list[str]
    tls: list[str]
    ended: int


class BackupRequest(Request):
    """Where to: a folder on the mesh's own machine, which must not exist."""

    target: str


def only_admin(route: Route) -> Route:
    """A route for those the gate lets administer."""

    async def checked(exchange: Exchange) -> web.StreamResponse:
        granted(exchange.broker.gate.check(exchange.principal, Action.ADMIN, ""))
        return await route(exchange)

    return checked


async def _status(exchange: Exchange) -> web.StreamResponse:
    broker = exchange.broker
    return respond(
        StatusDocument(
            version=exchange.surface.version,
            now_ms=broker.clock.now_ms(),
            durable=broker.log.durable,
            saturated=broker.saturated,
            sessions=broker.metrics.sessions,
            channels=len(broker.channels.by_name),
            subscriptions=broker.metrics.subscriptions,
            log_bytes_used=broker.log.bytes_used(),
            log_uncommitted_bytes=broker.log.uncommitted_bytes(),
            log_oldest_uncommitted_ms=broker.log.oldest_uncommitted_ms(),
        )
    )


async def _channels(exchange: Exchange) -> web.StreamResponse:
    """Every channel, also those whose names begin with $, in no particular order: sorting a million takes too long."""
    known = exchange.broker.channels.by_name.values()
    limit = exchange.integer("limit") or LIST_MAX
    prefix = exchange.text("prefix") or ""
    found: list[ChannelDocument] = [
        channel_document(channel) for channel in islice((c for c in known if c.name.startswith(prefix)), limit)
    ]
    return respond(ChannelsDocument(channels=found))


async def _agents(exchange: Exchange) -> web.StreamResponse:
    directory = exchange.broker.directory
    found: list[AgentDocument] = [
        agent_document(agent) for agent in directory.find(exchange.principal, Query(text=exchange.text("text")))
    ]
    limit = exchange.integer("limit") or LIST_MAX
    return respond(AgentsDocument(revision=directory.revision, agents=found[:limit]))


async def _connections(exchange: Exchange) -> web.StreamResponse:
    wanted = exchange.text("agent")
    behind, waits = exchange.flag("behind"), exchange.broker.core.pump.waits
    sessions = [
        session
        for session in exchange.broker.sessions()
        # The mesh listens to itself too, which is nobody's connection.
        if session.principal is not MESH
        and (wanted is None or session.agent == wanted)
        and (behind is None or waits(session) is behind)
    ]
    limit = exchange.integer("limit") or LIST_MAX
    shown = [_connection(exchange, session) for session in sessions[:limit]]
    return respond(ConnectionsDocument(total=len(sessions), connections=shown))


def _connection(exchange: Exchange, session: Session) -> ConnectionDocument:
    subscriptions = islice(exchange.broker.subscriptions(session), 100)
    return ConnectionDocument(
        id=id_of(session),
        protocol=session.protocol,
        principal=session.principal.name,
        agent=session.agent,
        subscriptions=[subscription.filter for subscription in subscriptions],
        behind=exchange.broker.core.pump.waits(session),
        listener=session.listener_name if isinstance(session, Reached) else "",
        peer=session.peer if isinstance(session, Reached) else "",
    )


def id_of(session: Session) -> str:
    """Names a session. Its address alone could name a later one by the time somebody acts on it."""
    text = f"{id(session)}\0{session.protocol}\0{session.principal.name}\0{session.agent}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


async def _slow(exchange: Exchange) -> web.StreamResponse:
    slow = exchange.broker.slow
    found = slow.listed()
    shown = [
        SlowReaderDocument(
            id=id_of(reader.session),
            protocol=reader.session.protocol,
            principal=reader.session.principal.name,
            agent=reader.session.agent,
            since_ms=reader.since_ms,
            messages=reader.messages,
            bytes=reader.bytes,
            lost=reader.lost,
        )
        for reader in found[: exchange.integer("limit") or LIST_MAX]
    ]
    return respond(SlowReadersDocument(total=len(found), slow=slow.count, readers=shown))


async def _log(exchange: Exchange) -> web.StreamResponse:
    return respond(CountersDocument(statistics=exchange.broker.log.statistics()))


async def _links(exchange: Exchange) -> web.StreamResponse:
    return respond(LinksDocument(links=[msgspec.convert(link, LinkDocument) for link in exchange.surface.links()]))


async def _config(exchange: Exchange) -> web.StreamResponse:
    settings = exchange.surface.config()
    return respond(
        ConfigDocument(settings=[SettingDocument(key=s.key, value=s.value, origin=s.origin) for s in settings])
    )


async def _backup(exchange: Exchange) -> web.StreamResponse:
    order = await exchange.document(BackupRequest)
    backup = exchange.surface.backup
    if backup is None:
        raise RefusedError(Refusal(Reason.UNSUPPORTED, "this mesh keeps nothing on disk that could be backed up"))
    if not order.target or "\0" in order.target:
        raise invalid("target names no folder")
    await backup(order.target)
    return nothing()


async def _reload(exchange: Exchange) -> web.StreamResponse:
    reload = exchange.surface.reload
    if reload is None:
        raise RefusedError(Refusal(Reason.UNSUPPORTED, "this mesh has no configuration that could be read again"))
    record(exchange, "reload")
    return respond(msgspec.convert(await reload(), ReloadDocument))


def record(exchange: Exchange, what: str, **about: object) -> None:
    """The line in the log by which one finds out later who did what; text of peers only in its fields."""
    logger.warning("administration: %s", what, extra={"by": exchange.principal.name, **about})


LIMIT: Final = Parameter("limit", "the most in the answer", "integer", low=1, high=100_000)


def read_only(
    path: str, name: str, summary: str, route: Route, document: type[Document], *query: Parameter
) -> Definition:
    """A GET below ``/v1/admin`` for those the gate lets administer."""
    return Definition(
        "GET",
        f"/v1/admin/{path}",
        name,
        "admin",
        summary,
        only_admin(route),
        replies=(Reply(200, summary, document),),
        query=query,
    )


def _definitions() -> Iterator[Definition]:
    yield read_only("status", "status", "The mesh in one look", _status, StatusDocument)
    prefix = Parameter("prefix", "only names that begin with this")
    yield read_only("channels", "adminChannels", "Channels, all of them", _channels, ChannelsDocument, prefix, LIMIT)
    text = Parameter("text", "words that all occur in the id or the card")
    yield read_only("agents", "adminAgents", "Agents", _agents, AgentsDocument, text, LIMIT)
    agent = Parameter("agent", "only those that speak as this agent")
    behind = Parameter("behind", "true: only slow readers; false: only the others", "flag")
    yield read_only(
        "connections", "connections", "Who is attached now", _connections, ConnectionsDocument, agent, behind, LIMIT
    )
    yield read_only("slow", "slowReaders", "Readers that do not keep up", _slow, SlowReadersDocument, LIMIT)
    yield read_only("links", "links", "Connections to outside brokers, and how they stand", _links, LinksDocument)
    yield read_only("log", "logStatistics", "What the log counts", _log, CountersDocument)
    yield read_only("config", "config", "Every value in force and where it came from", _config, ConfigDocument)
    yield Definition(
        "POST",
        "/v1/admin/backup",
        "backup",
        "admin",
        "Copy what the log holds to a folder on the mesh's own machine",
        only_admin(_backup),
        replies=(Reply(204, "It is complete"),),
        body=BackupRequest,
        problems=(409, 501, 507),
    )
    yield Definition(
        "POST",
        "/v1/admin/reload",
        "reload",
        "admin",
        "Read the configuration and the files of TLS again, and take over what can change while the mesh runs",
        only_admin(_reload),
        replies=(Reply(200, "What changed, and what needs a restart", ReloadDocument),),
        problems=(409, 501),
    )


DEFINITIONS: Final = tuple(_definitions())
