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
from dragoman.adapters.links.party import Party
from dragoman.adapters.serving.answers import Answer
from dragoman.adapters.serving.mcp_forms import answer_of, arguments_of, card_of, part_of, skills_of
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.links.link import Link
    from dragoman.adapters.links.party import Told
    from dragoman.broker.offers import Asked
    from dragoman.routing.cards import Card, Skill

CONNECT_S: Final = 10.0
"""For a TCP connection, and for each answer but that of a tool."""

REFRESH_S: Final = 15.0
"""Tools are listed again at least so often: how a server that went silently is noticed."""

EVENT_BYTES_MAX: Final = 32 << 20
"""One event of the server; beyond it the call fails."""

PAGES_MAX: Final = 64
"""Of a list of tools; the rest is left out, and more skills than a card holds are refused anyway."""


@final
class McpOutside:
    """One MCP server. ``converse`` is one connection to it."""

    lag: Final = None

    def __init__(self, link: Link) -> None:
        self._link = link
        self._party = Party(link, "mcp", self._answer)
        self._client: Client | None = None
        self._changed = asyncio.Event()

    async def converse(self) -> None:
        """Connects, offers the tools, and keeps them as the server has them until the connection ends."""
        try:
            async with self._connected() as client, asyncio.TaskGroup() as tasks:
                self._client = client
                skills = await self._tools(client)
                self._party.arrive(self._card(client))
                try:
                    self._party.serve(skills)
                    self._link.up()
                    tasks.create_task(self._watch(client), name=f"link {self._link.settings.name} watch")
                    await self._follow(client)
                finally:
                    self._client = None
                    self._party.leave()
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
            self._party.serve(await self._tools(client))

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
        self._party.complain(faults)
        return skills

    def _card(self, client: Client) -> Card:
        info = client.server_info
        name, version = (info.title or info.name, info.version) if info is not None else ("", "")
        return card_of(self._party.agent, name, client.instructions or "", version, self._link.settings.address)

    # -- calls ---------------------------------------------------------------------------------------

    async def _answer(self, asked: Asked, told: Told) -> Answer:
        client = self._client
        assert client is not None, "who is not there is not asked"
        arguments = arguments_of(asked.arguments)
        if isinstance(arguments, Refusal):
            return Answer(b"", failure=arguments)

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            told(*part_of(progress, total, message))

        broker = self._link.broker
        left_s = max(0.001, (asked.deadline_ms - broker.clock.now_ms()) / 1000)
        try:
            # The mesh ends the call at its deadline; this only sees to it that nothing is left behind.
            result = await client.call_tool(
                asked.skill, arguments, read_timeout_seconds=left_s + CONNECT_S, progress_callback=progressed
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
