"""What the mesh answers to MCP's methods: the one place where tools, resources and streams come together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from dragoman.adapters.mcp.asking import SkillCalls
from dragoman.adapters.mcp.callers import Caller
from dragoman.adapters.mcp.catalog import Catalog
from dragoman.adapters.mcp.changes import Changes
from dragoman.adapters.mcp.channel_watch import ChannelWatch
from dragoman.adapters.mcp.contents import encodable, mesh_result, refused_error, refused_result
from dragoman.adapters.mcp.cursors import Cursors
from dragoman.adapters.mcp.kernel import (
    INVALID_PARAMS,
    RESOURCE_NOT_FOUND,
    JsonObject,
    Request,
    RpcError,
)
from dragoman.adapters.mcp.listen import Listening, listen
from dragoman.adapters.mcp.mesh_acts import MeshActs
from dragoman.adapters.mcp.mesh_tools import MeshTool, mesh_tools
from dragoman.adapters.mcp.resources import TEMPLATES, list_channels, read_channel, read_cursor, write_cursor
from dragoman.adapters.mcp.session import McpSession
from dragoman.broker.history import What
from dragoman.broker.presence import State
from dragoman.broker.principal import EMBEDDED
from dragoman.routing.cards import Query
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal
from dragoman.routing.words import traced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.adapters.mcp.kernel import (
        CallParams,
        ListenParams,
        ListParams,
        ReadParams,
        SubscribeParams,
        UnsubscribeParams,
    )
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.history import Change


@final
class MeshServe:
    """Answers the methods with a broker. ``tools_changed`` and ``resources_changed`` ring when the lists may have."""

    __slots__ = (
        "_broker",
        "_catalog",
        "_channels",
        "_cursors",
        "_gone",
        "_mesh_tools",
        "_settings",
        "_skills",
        "_unwatch",
        "resources_changed",
        "tools_changed",
    )

    def __init__(self, broker: Broker, settings: McpSettings) -> None:
        self._broker = broker
        self._settings = settings
        self._cursors = Cursors(broker, settings)
        self._mesh_tools: dict[str, MeshTool] = mesh_tools(MeshActs(broker, self._cursors, settings))
        self._catalog = Catalog(
            broker,
            self._mesh_tools,
            agent_enum_max=settings.agent_enum_max,
            schema_bytes_max=settings.schema_bytes_max,
        )
        self._skills = SkillCalls(broker, self._catalog, settings.call_timeout_s)
        self.tools_changed = Changes(broker.core.loop, settings.tools_changed_debounce_s)
        self.resources_changed = Changes(broker.core.loop, 0.0)
        self._channels = ChannelWatch(broker, settings.channels_look_ms, self.resources_changed.ring)
        self._unwatch: Callable[[], None] | None = None
        self._gone: set[str] = set()

    def start(self) -> None:
        """Begins to watch the directory and the channels."""
        self._channels.start()
        directory = self._broker.directory
        self._gone = {agent.id for agent in directory.find(EMBEDDED, Query(state=State.GONE))}
        self._unwatch = directory.watch(self._changed)

    def stop(self) -> None:
        """Ends every cursor and stops watching."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        self._channels.stop()
        self.tools_changed.stop()
        self.resources_changed.stop()
        self._cursors.close()

    # -- tools ---------------------------------------------------------------------------------------

    async def list_tools(self, request: Request, params: ListParams) -> JsonObject:
        """One page of tools, by name."""
        skills = self._catalog.tools(_caller(request).principal)
        names = sorted([*self._mesh_tools, *skills])
        if params.cursor is not None:
            after = read_cursor(params.cursor)
            names = [name for name in names if name > after]
        page = names[: self._settings.page_size]
        tools: list[JsonObject] = []
        for name in page:
            if name in self._mesh_tools:
                tools.append(self._mesh_tools[name].shown)
                continue
            if skills[name].shown is None:
                # Reading a schema for the first time takes a millisecond: others get their turn in between.
                await asyncio.sleep(0)
            tools.append(self._catalog.describe(skills[name]))
        result: JsonObject = {"tools": tools}
        if len(names) > len(page):
            result["nextCursor"] = write_cursor(page[-1])
        return self._listed(result)

    async def call_tool(self, request: Request, params: CallParams) -> JsonObject:
        """The outcome of one tool."""
        caller = _caller(request)
        arguments = dict(params.arguments or {})
        if not encodable(arguments):
            return refused_result(Refusal(Reason.ARGUMENTS_INVALID, "text that is no Unicode, or nested too deeply"))
        mesh_tool = self._mesh_tools.get(params.name)
        if mesh_tool is not None:
            return await self._call_mesh(caller, mesh_tool, arguments, request)
        tool = self._catalog.find(caller.principal, params.name)
        if tool is None:
            raise RpcError(INVALID_PARAMS, f"Unknown tool: {shown(params.name)}")
        with self._session(caller) as session:
            return await self._skills.ask(session, tool, request, arguments)

    async def _call_mesh(self, caller: Caller, tool: MeshTool, arguments: JsonObject, request: Request) -> JsonObject:
        faults = tool.check.faults(arguments)
        if faults:
            return refused_result(Refusal(Reason.ARGUMENTS_INVALID, "; ".join(faults)))
        if tool.shown["name"] == "mesh_publish":
            arguments = traced(arguments, (request.params or {}).get("_meta"))
        with self._session(caller) as session:
            outcome = await tool.act(caller, session, arguments)
        return refused_result(outcome) if isinstance(outcome, Refusal) else mesh_result(outcome)

    def tool_schema(self, request: Request, name: str) -> JsonObject | None:
        """The input schema of a tool the caller may see."""
        if name in self._mesh_tools:
            return None
        tool = self._catalog.find(_caller(request).principal, name)
        return None if tool is None else tool.skill.input_schema

    # -- resources -----------------------------------------------------------------------------------

    async def list_resources(self, request: Request, params: ListParams) -> JsonObject:
        """One page of the channels that hold something."""
        with self._session(_caller(request)) as session:
            page = await list_channels(self._broker, session, params.cursor, self._settings.page_size)
        return self._listed(page)

    async def list_templates(self, request: Request, params: ListParams) -> JsonObject:
        """How a channel's URI is made."""
        return self._listed({"resourceTemplates": list(TEMPLATES)})

    async def read_resource(self, request: Request, params: ReadParams) -> JsonObject:
        """What a channel holds now. Never to be kept: the next message changes it."""
        caller = _caller(request)
        missing = INVALID_PARAMS if caller.session is None else RESOURCE_NOT_FOUND
        with self._session(caller) as session:
            contents = read_channel(self._broker, session, str(params.uri), missing)
        return {"resultType": "complete", "contents": [contents], "ttlMs": 0, "cacheScope": "private"}

    async def subscribe(self, request: Request, params: SubscribeParams) -> JsonObject:
        """Notices of a resource on the stream of the session."""
        caller = _caller(request)
        assert caller.session is not None, "the kernel lets only handshake sessions subscribe"
        refusal = caller.session.follow(self._broker, caller, str(params.uri), self._settings.listen_uris_max)
        if refusal is not None:
            raise RpcError(INVALID_PARAMS, f"{refusal.reason.value}: {refusal.detail}", {"uri": str(params.uri)})
        return {}

    async def unsubscribe(self, request: Request, params: UnsubscribeParams) -> JsonObject:
        """No more of them."""
        caller = _caller(request)
        assert caller.session is not None, "the kernel lets only handshake sessions unsubscribe"
        caller.session.unfollow(str(params.uri))
        return {}

    async def listen(self, request: Request, params: ListenParams) -> JsonObject:
        """One stream of changes."""
        wanted = params.notifications
        uris = list(wanted.resource_subscriptions or ())
        if len(uris) > self._settings.listen_uris_max:
            detail = f"{len(uris)} resources, one stream follows at most {self._settings.listen_uris_max}"
            raise RpcError(INVALID_PARAMS, detail)
        kinds = {}
        if wanted.tools_list_changed:
            kinds["toolsListChanged"] = self.tools_changed
        if wanted.resources_list_changed:
            kinds["resourcesListChanged"] = self.resources_changed
        listening = Listening(self._broker, _caller(request), self._settings.notices_gap_s)
        outcome = await listen(listening, request, kinds, uris)
        if isinstance(outcome, Refusal):
            raise refused_error(outcome)
        return outcome

    # -- within --------------------------------------------------------------------------------------

    @contextmanager
    def _session(self, caller: Caller) -> Iterator[McpSession]:
        session = McpSession(caller.principal, caller.agent)
        refusal = self._broker.attach(session)
        if refusal is not None:
            raise refused_error(refusal)
        try:
            yield session
        finally:
            self._broker.detach(session)

    def _listed(self, result: JsonObject) -> JsonObject:
        # Lists depend on who asks, so no shared cache may keep them.
        return {"resultType": "complete", **result, "ttlMs": self._settings.list_ttl_ms, "cacheScope": "private"}

    def _changed(self, change: Change) -> None:
        """Only what makes another list rings: a card, or an agent that is gone or back; not every coming and going."""
        gone = change.what is not What.REMOVED and change.state == State.GONE
        was_gone = change.agent in self._gone
        if gone:
            self._gone.add(change.agent)
        else:
            self._gone.discard(change.agent)
        if change.what is not What.STATE or gone != was_gone:
            self.tools_changed.ring()


def _caller(request: Request) -> Caller:
    assert isinstance(request.caller, Caller), "the endpoint makes every request for a caller"
    return request.caller
