"""Channels as resources: which there are, what one holds now, how a URI names one."""

from __future__ import annotations

import asyncio
import heapq
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Final

from dragoman.adapters.mcp.channel_watch import NO_RESOURCES
from dragoman.adapters.mcp.contents import resource_json
from dragoman.adapters.mcp.kernel import INVALID_PARAMS, JsonObject, RpcError
from dragoman.routing.names import from_uri, shown, to_uri
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mcp.session import McpSession
    from dragoman.broker.broker import Broker
    from dragoman.routing.message import Message

SCAN_CHUNK: Final = 2_000
"""Channels looked at before others get their turn."""


TEMPLATES: Final[tuple[JsonObject, ...]] = (
    {
        "name": "channel",
        "title": "A channel",
        "uriTemplate": "channel:///{+name}",
        "description": "The retained message of a channel, or else its newest one. Levels are separated by slashes.",
    },
    {
        "name": "channel-by-query",
        "title": "A channel whose name a path cannot hold",
        "uriTemplate": "channel:///{?name}",
        "description": "The same for names with empty levels or levels that are dots.",
    },
)


async def list_channels(broker: Broker, session: McpSession, cursor: str | None, page_size: int) -> JsonObject:
    """One page of the channels that hold something the session may read, by name."""
    after = "" if cursor is None else read_cursor(cursor)
    page: list[str] = []
    names = list(broker.channels.by_name)
    for at in range(0, len(names), SCAN_CHUNK):
        if at:
            await asyncio.sleep(0)
        fresh = [
            name
            for name in names[at : at + SCAN_CHUNK]
            if name > after
            and not name.startswith(NO_RESOURCES)
            and value_of(broker, name) is not None
            and broker.may_read(session, name)
        ]
        page = heapq.nsmallest(page_size + 1, [*page, *fresh])
    result: JsonObject = {"resources": [_described(broker, name) for name in page[:page_size]]}
    if len(page) > page_size:
        result["nextCursor"] = write_cursor(page[page_size - 1])
    return result


def read_channel(broker: Broker, session: McpSession, uri: str, missing: int = INVALID_PARAMS) -> JsonObject:
    """What a channel holds: its retained message, else its newest. Raises RpcError; ``missing`` is its code for no."""
    name = from_uri(uri)
    if isinstance(name, Refusal):
        raise RpcError(INVALID_PARAMS, f"{name.reason.value}: {name.detail}", {"uri": uri})
    if broker.may_read(session, name):
        message = value_of(broker, name)
        if message is not None and message.payload is not None:
            return resource_json(uri, message.payload, _content_type(message))
    # Not found and not allowed look the same: a name somebody may not read is nobody's business.
    raise RpcError(missing, f"Resource not found: {shown(uri)}", {"uri": uri})


def value_of(broker: Broker, name: str) -> Message | None:
    """The retained message, else the newest one."""
    return broker.retained_of(name) or broker.last_of(name)


def read_cursor(cursor: str) -> str:
    """The name a page cursor stands for. Raises RpcError."""
    try:
        return b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (Base64Error, ValueError):
        raise RpcError(INVALID_PARAMS, f"no such cursor: {shown(cursor)}") from None


def write_cursor(name: str) -> str:
    """A page cursor: what comes after ``name``. By name, so that pages stay true while entries come and go."""
    return urlsafe_b64encode(name.encode()).decode("ascii")


def _described(broker: Broker, name: str) -> JsonObject:
    described: JsonObject = {"uri": to_uri(name), "name": name}
    message = value_of(broker, name)
    if message is not None:
        described["size"] = len(message.payload or b"")
        content_type = _content_type(message)
        if content_type is not None:
            described["mimeType"] = content_type
    return described


def _content_type(message: Message) -> str | None:
    return None if message.envelope is None else message.envelope.content_type
