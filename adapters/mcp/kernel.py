"""The only file that imports the MCP SDK. Wraps its transport-free kernel; knows no HTTP and no broker.

What we use of it: the wire types' validation per protocol revision, the handshake of the older
revisions, the ladder of checks of the newest one, and the stamping of results. ``Server.middleware``
and contexts are provisional there, so a new SDK version is met here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import anyio
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.runner import ServerRunner, modern_error_data, serve_one
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CallToolRequestParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    RequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types import PROTOCOL_VERSION_META_KEY as VERSION_KEY
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

__all__ = [
    "HANDSHAKE_VERSIONS",
    "HEADER_MISMATCH",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_HEADER",
    "METHOD_NOT_FOUND",
    "MODERN_VERSION",
    "MODERN_VERSIONS",
    "NAME_HEADER",
    "PARSE_ERROR",
    "RESOURCE_NOT_FOUND",
    "SUBSCRIPTION_ID_KEY",
    "VERSION_HEADER",
    "VERSION_KEY",
    "CallParams",
    "Handshake",
    "JsonObject",
    "Kernel",
    "ListParams",
    "ListenParams",
    "Notify",
    "ReadParams",
    "Request",
    "RequestId",
    "RpcError",
    "Serve",
    "SubscribeParams",
    "UnsubscribeParams",
    "http_status",
]

JsonObject: TypeAlias = dict[str, Any]
RequestId: TypeAlias = str | int
Notify: TypeAlias = Callable[[str, Mapping[str, Any] | None], Awaitable[None]]

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
RESOURCE_NOT_FOUND: Final = -32002
"""In the handshake revisions only; later it is INVALID_PARAMS."""

VERSION_HEADER: Final = MCP_PROTOCOL_VERSION_HEADER
METHOD_HEADER: Final = MCP_METHOD_HEADER
NAME_HEADER: Final = MCP_NAME_HEADER
SUBSCRIPTION_ID_KEY: Final = "io.modelcontextprotocol/subscriptionId"
MODERN_VERSION: Final = LATEST_MODERN_VERSION
MODERN_VERSIONS: Final = tuple(MODERN_PROTOCOL_VERSIONS)
HANDSHAKE_VERSIONS: Final = tuple(HANDSHAKE_PROTOCOL_VERSIONS)

CallParams: TypeAlias = CallToolRequestParams
ListParams: TypeAlias = PaginatedRequestParams
ReadParams: TypeAlias = ReadResourceRequestParams
SubscribeParams: TypeAlias = SubscribeRequestParams
UnsubscribeParams: TypeAlias = UnsubscribeRequestParams
ListenParams: TypeAlias = SubscriptionsListenRequestParams


class RpcError(Exception):
    """A JSON-RPC error answer: what a serving function raises, and what the kernel's own refusals become."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def http_status(code: int) -> int:
    """The HTTP status that goes with a JSON-RPC error code; 200 where the specification assigns none."""
    return ERROR_CODE_HTTP_STATUS.get(code, 200)


@dataclass(slots=True)
class Request:
    """One JSON-RPC request on its way through the kernel.

    ``caller`` is whatever the transport wants handed back to its serving functions; ``notify`` sends a
    notification that belongs to this request, on this request's answer.
    """

    id: RequestId
    method: str
    params: JsonObject | None
    caller: object
    notify: Notify

    @property
    def progress_token(self) -> RequestId | None:
        """The token the caller wants progress reported under; None if it wants none."""
        match self.params:
            case {"_meta": {"progressToken": str() | int() as token}} if not isinstance(token, bool):
                return token
        return None

    async def progress(self, progress: float, message: str | None) -> None:
        """Reports progress, if it was asked for."""
        token = self.progress_token
        if token is None:
            return
        params: JsonObject = {"progressToken": token, "progress": progress}
        if message is not None:
            params["message"] = message
        await self.notify("notifications/progress", params)


class Serve(Protocol):
    """What answers the methods. Results are plain JSON objects; the kernel adds what each revision wants around."""

    async def list_tools(self, request: Request, params: ListParams) -> JsonObject:
        """One page of tools."""

    async def call_tool(self, request: Request, params: CallParams) -> JsonObject:
        """The outcome of one tool."""

    async def list_resources(self, request: Request, params: ListParams) -> JsonObject:
        """One page of resources."""

    async def list_templates(self, request: Request, params: ListParams) -> JsonObject:
        """One page of resource templates."""

    async def read_resource(self, request: Request, params: ReadParams) -> JsonObject:
        """The contents of one resource."""

    async def subscribe(self, request: Request, params: SubscribeParams) -> JsonObject:
        """Follows a resource for as long as the handshake session lasts. The kernel refuses it to others."""

    async def unsubscribe(self, request: Request, params: UnsubscribeParams) -> JsonObject:
        """The opposite."""

    async def listen(self, request: Request, params: ListenParams) -> JsonObject:
        """Runs for as long as the stream is open."""

    def tool_schema(self, request: Request, name: str) -> JsonObject | None:
        """The input schema of a tool the caller of ``request`` may see; None if there is none."""


@dataclass(slots=True)
class _Exchange:
    """The SDK's view of one message: structurally its ``DispatchContext``. No request ever goes back to the client."""

    request: Request
    transport: TransportContext = field(
        default_factory=lambda: TransportContext(kind="streamable-http", can_send_request=False)
    )
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)
    can_send_request: bool = False

    @property
    def request_id(self) -> RequestId:
        return self.request.id

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        return ServerMessageMetadata(request_context=self.request)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: object = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: object = None) -> None:
        await self.request.notify(method, params)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        await self.request.progress(progress, message)


@dataclass(slots=True)
class _Standalone:
    """The outbound side of a handshake connection: the notifications of its GET stream."""

    sink: Notify

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: object = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: object = None) -> None:
        await self.sink(method, params)


class Handshake:
    """One client that said ``initialize``: the revision agreed with it and its place in the kernel."""

    __slots__ = ("_connection", "_runner")

    def __init__(self, server: Server[Any], session_id: str, sink: Notify) -> None:
        self._connection = Connection.for_loop(_Standalone(sink), session_id=session_id)
        options = server.create_initialization_options(NotificationOptions(tools_changed=True, resources_changed=True))
        self._runner = ServerRunner(server, self._connection, None, init_options=options)

    @property
    def version(self) -> str:
        """The revision agreed; the newest handshake revision until then."""
        return self._connection.protocol_version

    @property
    def agreed(self) -> bool:
        """Whether ``initialize`` was answered with a yes."""
        return self._connection.initialize_accepted

    async def ask(self, request: Request) -> JsonObject:
        """The result of a request. Raises RpcError."""
        return await _settled(self._runner.on_request(_Exchange(request), request.method, request.params))

    async def tell(self, request: Request) -> None:
        """Takes a notification."""
        await self._runner.on_notify(_Exchange(request), request.method, request.params)


class Kernel:
    """Answers JSON-RPC requests of every revision with one ``Serve``."""

    __slots__ = ("_serve", "_server")

    def __init__(self, serve: Serve, *, name: str, version: str, instructions: str) -> None:
        self._serve = serve
        self._server: Server[Any] = Server(name, version=version, instructions=instructions)
        # Its tracing does nothing without an exporter, and costs a span per message with one we did not choose.
        self._server.middleware.clear()
        self._answer("tools/list", PaginatedRequestParams, serve.list_tools)
        self._answer("tools/call", CallToolRequestParams, serve.call_tool)
        self._answer("resources/list", PaginatedRequestParams, serve.list_resources)
        self._answer("resources/templates/list", PaginatedRequestParams, serve.list_templates)
        self._answer("resources/read", ReadResourceRequestParams, serve.read_resource)
        self._answer("resources/subscribe", SubscribeRequestParams, serve.subscribe)
        self._answer("resources/unsubscribe", UnsubscribeRequestParams, serve.unsubscribe)
        self._answer("subscriptions/listen", SubscriptionsListenRequestParams, serve.listen)
        self._server.add_request_handler("server/discover", RequestParams, self._discover)

    def _answer(
        self,
        method: str,
        params_type: type[BaseModel],
        serve: Callable[[Request, Any], Awaitable[JsonObject]],
    ) -> None:
        async def answer(context: ServerRequestContext[Any, Any], params: Any) -> JsonObject:
            request = context.request
            assert isinstance(request, Request), "the exchange carries the request it was made for"
            try:
                return await serve(request, params)
            except RpcError as error:
                raise MCPError(error.code, error.message, error.data) from error

        self._server.add_request_handler(method, params_type, answer)

    async def _discover(self, context: ServerRequestContext[Any, Any], params: RequestParams) -> JsonObject:
        return {
            "resultType": "complete",
            "supportedVersions": list(MODERN_VERSIONS),
            "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True}},
            "instructions": self._server.instructions,
            "ttlMs": 0,
            "cacheScope": "private",
        }

    def handshake(self, session_id: str, sink: Notify) -> Handshake:
        """A place for a client that is about to say ``initialize``. ``sink`` takes what belongs to no request."""
        return Handshake(self._server, session_id, sink)

    def objection(self, body: JsonObject, headers: list[tuple[str, str]]) -> RpcError | None:
        """What the 2026-07-28 ladder has against this request; None if nothing. ``headers`` as received."""
        duplicated = find_duplicated_routing_header(headers)
        if duplicated is not None:
            return RpcError(HEADER_MISMATCH, f"{duplicated} header appears more than once")
        verdict = classify_inbound_request(body, headers={name.lower(): value for name, value in headers})
        return _error(verdict) if isinstance(verdict, InboundLadderRejection) else None

    def parameter_objection(self, request: Request, headers: list[tuple[str, str]]) -> RpcError | None:
        """What ``Mcp-Param-*`` headers and the arguments of a tools/call disagree about; None if nothing."""
        params = request.params or {}
        name, arguments = params.get("name"), params.get("arguments") or {}
        if request.method != "tools/call" or not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        schema = self._serve.tool_schema(request, name)
        if schema is None:
            return None
        verdict = validate_mcp_param_headers(schema, arguments, _Lines(headers))
        return None if verdict is None else _error(verdict)

    def unsupported(self, version: str) -> RpcError | None:
        """The refusal of a revision without a handshake that we do not speak; None if we do."""
        verdict = unsupported_protocol_version_rejection(version)
        return None if verdict is None else _error(verdict)

    async def ask(self, request: Request) -> JsonObject:
        """The result of a request that passed ``objection``. Raises RpcError."""
        meta = (request.params or {})["_meta"]
        # The client's name for itself is not handed on: it must never drive behaviour.
        connection = Connection.from_envelope(meta[VERSION_KEY], None, meta[CLIENT_CAPABILITIES_META_KEY])
        work = serve_one(
            self._server,
            _Exchange(request),
            request.method,
            request.params,
            connection=connection,
            lifespan_state=None,
        )
        return await _settled(work)


class _Lines(Mapping[str, str]):
    """Header lines as the mapping the SDK takes, whose ``items`` still show a header that came twice."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self._lines = lines

    def __getitem__(self, key: str) -> str:
        for name, value in self._lines:
            if name == key:
                return value
        raise KeyError(key)

    def __iter__(self) -> Any:
        return iter(name for name, _ in self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def items(self) -> Any:
        return self._lines


def _error(verdict: InboundLadderRejection) -> RpcError:
    return RpcError(verdict.code, verdict.message, verdict.data)


async def _settled(work: Awaitable[JsonObject]) -> JsonObject:
    try:
        return await work
    except (MCPError, ValidationError) as failure:
        error = modern_error_data(failure)
        raise RpcError(error.code, error.message, error.data) from failure
