"""An outside MCP server as an agent of the mesh: its tools are the agent's skills, and a call is a ``tools/call``.

The agent is there while the server is. What the server calls progress are parts of an answer, its errors failures;
a call given up here is cancelled there. A call is never made twice: whose connection ends with it has failed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, Implementation
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from dragoman.adapters.links.link import LinkError
from dragoman.adapters.links.mcp_forms import Answer, answer_of, arguments_of, card_of, part_of, skills_of
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from mcp.shared.dispatcher import ProgressFnT

    from dragoman.adapters.links.link import Link
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.offers import Asked, Offer
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed
    from dragoman.routing.cards import Skill
    from dragoman.routing.message import Message

CONNECT_S: Final = 10.0
"""For a TCP connection, and for each answer but that of a tool."""

REFRESH_S: Final = 15.0
"""Tools are listed again at least so often: how a server that went silently is noticed."""

EVENT_BYTES_MAX: Final = 32 << 20
"""One event of the server; beyond it the call fails."""

PAGES_MAX: Final = 64
"""Of a list of tools; the rest is left out, and more skills than a card holds are refused anyway."""


@final
class Presence:
    """The server's agent in the mesh. Implements ``broker.session.Session``; nothing is delivered to it."""

    __slots__ = ("agent", "principal")

    protocol: Final = "mcp"

    def __init__(self, principal: Principal, agent: str) -> None:
        self.principal = principal
        self.agent = agent

    def deliver(self, feed: Feed, message: Message) -> bool:
        """It subscribes to nothing."""
        raise AssertionError(f"{message.id} of {feed.name!r} for a party that subscribes to nothing")

    def lost(self, feed: Feed, count: int) -> None:
        """It subscribes to nothing."""

    def committed(self, ticket: Ticket) -> None:
        """It publishes nothing."""

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """It publishes nothing."""

    def close(self, refusal: Refusal) -> None:
        """The mesh ends: the link is stopped beside this."""


@final
class McpOutside:
    """One MCP server. ``converse`` is one connection to it."""

    lag: Final = None

    def __init__(self, link: Link) -> None:
        settings = link.settings
        self._link = link
        self._directory = link.broker.directory
        self._presence = Presence(link.outlet.principal, settings.agent or settings.name)
        self._client: Client | None = None
        self._offers: dict[str, Offer] = {}
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._told: list[str] = []

    async def converse(self) -> None:
        """Connects, offers the tools, and keeps them as the server has them until the connection ends."""
        try:
            async with self._connected() as client, asyncio.TaskGroup() as tasks:
                self._client = client
                skills = await self._tools(client)
                self._arrive(client)
                try:
                    self._serve(skills)
                    self._link.up()
                    tasks.create_task(self._watch(client), name=f"link {self._link.settings.name} watch")
                    await self._follow(client)
                finally:
                    self._leave()
        except (BaseExceptionGroup, MCPError, httpx2.HTTPError, TimeoutError, ValidationError) as error:
            failure: BaseException = error
            while isinstance(failure, BaseExceptionGroup):
                failure = failure.exceptions[0]
            if isinstance(failure, MCPError | httpx2.HTTPError | TimeoutError | ValidationError | OSError):
                raise LinkError(_sentence(failure)) from error
            raise

    # -- the connection ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        settings = self._link.settings
        headers = {"Authorization": f"Bearer {settings.password}"} if settings.password else {}
        verify = ssl.create_default_context(cafile=settings.ca or None) if settings.tls else True
        # No bound on reading: a stream of notices may be silent for long, and each request has its own.
        timeout = httpx2.Timeout(CONNECT_S, read=None)
        async with httpx2.AsyncClient(headers=headers, verify=verify, timeout=timeout) as http:
            transport = streamable_http_client(settings.address, http_client=http, max_sse_event_size=EVENT_BYTES_MAX)
            client = Client(
                transport,
                read_timeout_seconds=CONNECT_S,
                message_handler=self._heard,
                client_info=Implementation(name=settings.known_as, version="1"),
                cache=None,
            )
            async with client:
                # Its check of results against schemas of strangers has no bound. Ours, for those who see
                # the skill as a tool, has one.
                client.session.validate_tool_result = _unchecked  # type: ignore[method-assign]
                yield client

    async def _heard(self, message: object) -> None:
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            self._changed.set()

    async def _watch(self, client: Client) -> None:
        """Servers of 2026-07-28 tell of changes only to who listens; older ones tell it unasked."""
        tools = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or tools is None or not tools.list_changed:
            return
        while True:
            try:
                async with client.listen(tools_list_changed=True) as events:
                    self._changed.set()
                    async for _ in events:
                        self._changed.set()
            except (SubscriptionLost, MCPError, TimeoutError):
                pass
            # It may have gone with what it listened to, which listing will show.
            self._changed.set()
            await asyncio.sleep(CONNECT_S / 2)

    async def _follow(self, client: Client) -> None:
        while True:
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            self._serve(await self._tools(client))

    async def _tools(self, client: Client) -> list[Skill]:
        tools = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = await client.list_tools(cursor=cursor)
            tools.extend(page.tools)
            cursor = page.next_cursor
            if cursor is None:
                break
        skills, faults = skills_of(tools)
        self._complain(faults)
        return skills

    # -- in the mesh ---------------------------------------------------------------------------------

    def _arrive(self, client: Client) -> None:
        presence, settings = self._presence, self._link.settings
        arrived = self._directory.arrive(presence, presence.agent, keeps=False)
        if isinstance(arrived, Refusal):
            raise LinkError(f"it cannot be the agent {presence.agent!r}: {arrived.detail}")
        info = client.server_info
        name, version = (info.title or info.name, info.version) if info is not None else ("", "")
        card = card_of(presence.agent, name, client.instructions or "", version, settings.address)
        registered = self._directory.register(presence.principal, presence.agent, card, lease_ms=None, via="mcp")
        if isinstance(registered, Refusal):
            self._complain([registered.detail])
        self._directory.set_limit(presence.agent, settings.window)

    def _leave(self) -> None:
        self._client = None
        self._offers.clear()
        for task in self._calls.values():
            task.cancel()
        self._directory.depart(self._presence, clean=False, keeps=False)

    def _serve(self, skills: list[Skill]) -> None:
        """Offers exactly these skills. One that is as it was stays as it is."""
        wanted = {skill.name: skill for skill in skills}
        for name, offer in list(self._offers.items()):
            if wanted.get(name) != offer.skill:
                self._directory.withdraw(self._offers.pop(name))
        faults = []
        for name, skill in wanted.items():
            if name in self._offers:
                continue
            offered = self._directory.offer(self._presence, self._presence.agent, skill, self._ask, self._cancelled)
            if isinstance(offered, Refusal):
                faults.append(f"the tool {name!r} is no skill: {offered.detail}")
            else:
                self._offers[name] = offered
        self._complain(faults)

    def _complain(self, faults: list[str]) -> None:
        """Says each fault once, not at every look."""
        for fault in faults:
            if fault not in self._told:
                self._told = [*self._told, fault][-64:]
                self._link.standing.complain(fault)

    # -- calls ---------------------------------------------------------------------------------------

    def _ask(self, asked: Asked) -> bool:
        if self._client is None:
            return False
        task = asyncio.get_running_loop().create_task(
            self._call(self._client, asked), name=f"link {self._link.settings.name} call {asked.id}"
        )
        self._calls[asked.id] = task
        task.add_done_callback(lambda _: self._calls.pop(asked.id, None))
        return True

    def _cancelled(self, asked: Asked) -> None:
        task = self._calls.get(asked.id)
        if task is not None:
            task.cancel()

    async def _call(self, client: Client, asked: Asked) -> None:
        calls = self._link.broker.calls

        async def told(progress: float, total: float | None, message: str | None) -> None:
            payload, content_type = part_of(progress, total, message)
            calls.answer(self._presence, asked.id, payload, content_type=content_type, partial=True)

        answer = await self._answer(client, asked, told)
        calls.answer(self._presence, asked.id, answer.payload, content_type=answer.content_type, error=answer.failure)

    async def _answer(self, client: Client, asked: Asked, told: ProgressFnT) -> Answer:
        arguments = arguments_of(asked.arguments)
        if isinstance(arguments, Refusal):
            return Answer(b"", failure=arguments)
        broker = self._link.broker
        left_s = max(0.001, (asked.deadline_ms - broker.clock.now_ms()) / 1000)
        try:
            # The mesh ends the call at its deadline; this only sees to it that nothing is left behind.
            result = await client.call_tool(
                asked.skill, arguments, read_timeout_seconds=left_s + CONNECT_S, progress_callback=told
            )
        except MCPError as error:
            if error.code not in (INVALID_PARAMS, METHOD_NOT_FOUND):
                # Is the server still there? Listing will show.
                self._changed.set()
            return Answer(b"", failure=_refusal(error))
        except (RuntimeError, ValidationError, TimeoutError) as error:
            return Answer(b"", failure=Refusal(Reason.FAILED, f"the server's answer is of no use: {_sentence(error)}"))
        self._link.standing.pulled += 1
        return answer_of(result, broker.settings.message_bytes_max)


async def _unchecked(name: str, result: object) -> None:
    """Any result will do."""


def _refusal(error: MCPError) -> Refusal:
    reason = Reason.ARGUMENTS_INVALID if error.code == INVALID_PARAMS else Reason.FAILED
    return Refusal(reason, f"the MCP server says {error.code}: {error.message[:1000]}")


def _sentence(error: BaseException) -> str:
    return str(error)[:1000] or type(error).__name__
