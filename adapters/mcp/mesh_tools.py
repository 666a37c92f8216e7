"""The tools every caller has, as tools/list shows them: a table. What they do is in ``mesh_acts``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from dragoman.adapters.mcp.schemas import SchemaCheck

if TYPE_CHECKING:
    from dragoman.adapters.mcp.callers import Caller
    from dragoman.adapters.mcp.kernel import JsonObject
    from dragoman.adapters.mcp.mesh_acts import MeshActs
    from dragoman.adapters.mcp.session import McpSession
    from dragoman.routing.refusals import Refusal

Act: TypeAlias = "Callable[[Caller, McpSession, JsonObject], Awaitable[JsonObject | Refusal]]"

_SCHEMA_BYTES_MAX: Final = 16 * 1024


@final
class MeshTool:
    """One of them."""

    __slots__ = ("act", "check", "shown")

    def __init__(self, shown: JsonObject, act: Act) -> None:
        self.shown = shown
        self.act = act
        self.check = SchemaCheck(shown["inputSchema"], _SCHEMA_BYTES_MAX)


def mesh_tools(acts: MeshActs) -> dict[str, MeshTool]:
    """All of them, by name."""
    by_name: dict[str, Act] = {
        "mesh_find_agents": acts.find_agents,
        "mesh_join": acts.join,
        "mesh_leave": acts.leave,
        "mesh_members": acts.members,
        "mesh_open_room": acts.open_room,
        "mesh_publish": acts.publish,
        "mesh_read": acts.read,
        "mesh_wait": acts.wait,
    }
    assert by_name.keys() == _TABLE.keys()
    return {name: MeshTool({"name": name, **_TABLE[name]}, act) for name, act in by_name.items()}


def _object(properties: JsonObject, *required: str, closed: bool = True) -> JsonObject:
    schema: JsonObject = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def _hints(*, reads: bool = False, destroys: bool = False, repeatable: bool = False) -> dict[str, bool]:
    return {
        "readOnlyHint": reads,
        "destructiveHint": destroys,
        "idempotentHint": repeatable,
        "openWorldHint": not reads,
    }


_TEXT: Final[dict[str, Any]] = {"type": "string"}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_CHANNEL: Final[dict[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "description": "A channel's name: levels separated by slashes, such as factory/line1/temp.",
}
_FILTER: Final[dict[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "description": "A channel's name, or a filter: + stands for one level, # at the end for all that follow.",
}
_LIMIT: Final[dict[str, Any]] = {
    "type": "integer",
    "minimum": 1,
    "maximum": 1000,
    "description": "How many to return at most.",
}
_LEASE: Final[dict[str, Any]] = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": 10**9,
    "description": "Seconds until it ends by itself; every use starts it anew.",
}
_CURSOR: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": 200}

_HEADER: Final = _object({"name": _TEXT, "value": _TEXT, "value_base64": _TEXT}, "name")
_MESSAGE: Final[dict[str, Any]] = _object(
    {
        "channel": _TEXT,
        "id": _TEXT,
        "offset": _COUNT,
        "time_ms": _COUNT,
        "text": {"type": "string", "description": "The payload, if it is text."},
        "base64": {"type": "string", "description": "The payload, if it is not."},
        "tombstone": {"type": "boolean", "description": "There is no payload, not even an empty one."},
        "sender": _TEXT,
        "retained": {"type": "boolean"},
        "content_type": _TEXT,
        "reply_to": _TEXT,
        "correlation": _TEXT,
        "correlation_base64": _TEXT,
        "key": _TEXT,
        "key_base64": _TEXT,
        "cause": _TEXT,
        "sent_ms": {"type": "integer"},
        "expires_ms": _COUNT,
        "hops": _COUNT,
        "headers": {
            "type": "array",
            "description": "In order. The value is text, or base64, or neither if it has none.",
            "items": _HEADER,
        },
    },
    "channel",
    "id",
    "offset",
    "time_ms",
    closed=False,
)
_MESSAGES: Final[dict[str, Any]] = {"type": "array", "items": _MESSAGE}
_LOST: Final[dict[str, Any]] = {
    "type": "integer",
    "minimum": 1,
    "description": "Messages that were gone before they could be read.",
}

_TABLE: Final[dict[str, dict[str, Any]]] = {
    "mesh_publish": {
        "title": "Publish a message",
        "description": "Says something in a channel. The channel comes into being if it does not exist. "
        "Answers when the message is safe.",
        "inputSchema": _object(
            {
                "channel": _CHANNEL,
                "text": {"type": "string", "description": "The payload as text; JSON goes here too."},
                "base64": {"type": "string", "description": "The payload as base64, instead of text."},
                "content_type": {"type": "string", "description": "Such as application/json."},
                "retain": {"type": "boolean", "description": "Keep it as the channel's current value."},
                "durable": {"type": "boolean", "description": "Default true: readers that are away may get it too."},
                "tombstone": {"type": "boolean", "description": "No payload at all, instead of text: it is deleted."},
                "headers": {
                    "description": "Names and values; or a list as messages show them, where order, repeated names, "
                    "binary or absent values matter.",
                    "anyOf": [
                        {"type": "object", "additionalProperties": _TEXT, "maxProperties": 64},
                        {"type": "array", "items": _HEADER, "maxItems": 64},
                    ],
                },
                "key": {"type": "string", "description": "Partition or compaction key."},
                "key_base64": {"type": "string", "description": "The key, if it is not text."},
                "reply_to": {"type": "string", "description": "The channel where an answer is expected."},
                "correlation": {"type": "string", "description": "What an answer should carry back."},
                "correlation_base64": {"type": "string", "description": "The same, if it is not text."},
                "cause": {"type": "string", "description": "The id of the message this one answers or follows."},
                "expires_s": {"type": "number", "exclusiveMinimum": 0, "maximum": 10**9},
                "idempotency_key": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 200,
                    "description": "Publishing again with the same key says nothing again.",
                },
            },
            "channel",
        ),
        "outputSchema": _object(
            {
                "id": _TEXT,
                "channel": _TEXT,
                "offset": _COUNT,
                "logged": {"type": "boolean", "description": "Whether it waited for the log, not only for memory."},
            },
            "id",
            "channel",
            "offset",
            "logged",
        ),
        "annotations": _hints(),
    },
    "mesh_read": {
        "title": "Read a channel",
        "description": "Messages a channel still has: the newest, or from an offset on. Does not wait.",
        "inputSchema": _object({"channel": _CHANNEL, "offset": _COUNT, "limit": _LIMIT}, "channel"),
        "outputSchema": _object(
            {
                "messages": _MESSAGES,
                "next_offset": {"type": ["integer", "null"], "description": "Read on from here."},
                "lost": _LOST,
                "retained": _MESSAGE,
            },
            "messages",
            "next_offset",
        ),
        "annotations": _hints(reads=True, repeatable=True),
    },
    "mesh_wait": {
        "title": "Wait for the next message",
        "description": "Waits until something is said: to a cursor from mesh_join, which misses nothing between two "
        "waits, or in a channel from now on. No messages means that the time was up.",
        "inputSchema": _object(
            {
                "cursor": {**_CURSOR, "description": "From mesh_join."},
                "channel": _FILTER,
                "timeout_s": {"type": "number", "minimum": 0, "description": "Default 30."},
                "limit": _LIMIT,
            }
        ),
        "outputSchema": _object({"messages": _MESSAGES, "lost": _LOST, "waiting": _COUNT}, "messages"),
        "annotations": _hints(),
    },
    "mesh_join": {
        "title": "Join a channel",
        "description": "Takes part in a channel, or observes all that match a filter. Returns a cursor; what is said "
        "waits for it until mesh_wait. Joining again with the same cursor renews its lease.",
        "inputSchema": _object(
            {
                "channel": _FILTER,
                "cursor": {**_CURSOR, "description": "A name of your choice; absent: a new one is made."},
                "from": {"enum": ["new", "last", "earliest"], "description": "Where to begin; default new."},
                "lease_s": _LEASE,
            },
            "channel",
        ),
        "outputSchema": _object(
            {"cursor": _TEXT, "channel": _TEXT, "lease_s": {"type": "number"}}, "cursor", "channel", "lease_s"
        ),
        "annotations": _hints(repeatable=True),
    },
    "mesh_leave": {
        "title": "Leave a channel",
        "description": "Ends a cursor, and with it the membership.",
        "inputSchema": _object({"cursor": {**_CURSOR, "description": "From mesh_join."}}, "cursor"),
        "outputSchema": _object({"channel": _TEXT, "unread": _COUNT}, "channel", "unread"),
        "annotations": _hints(destroys=True),
    },
    "mesh_find_agents": {
        "title": "Find agents",
        "description": "Agents on the mesh, with their state as the mesh verified it. Everything given must hold.",
        "inputSchema": _object(
            {
                "agent": {"type": "string", "description": "An agent's id."},
                "text": {"type": "string", "description": "Words that occur in its id or its card."},
                "tag": _TEXT,
                "skill": {"type": "string", "description": "The exact name of a skill."},
                "state": {"enum": ["online", "busy", "asleep", "lost", "gone"]},
                "limit": _LIMIT,
            }
        ),
        "outputSchema": _object(
            {
                "agents": {
                    "type": "array",
                    "items": _object(
                        {
                            "agent": _TEXT,
                            "state": _TEXT,
                            "since_ms": _COUNT,
                            "name": _TEXT,
                            "description": _TEXT,
                            "skills": {"type": "array", "items": _TEXT},
                            "tags": {"type": "array", "items": _TEXT},
                        },
                        "agent",
                        "state",
                        closed=False,
                    ),
                },
                "more": {"type": "boolean", "description": "Whether there are more than were asked for."},
            },
            "agents",
            "more",
        ),
        "annotations": _hints(reads=True, repeatable=True),
    },
    "mesh_members": {
        "title": "Who is in a channel",
        "description": "The agents that are members of a channel, and since when.",
        "inputSchema": _object({"channel": _CHANNEL}, "channel"),
        "outputSchema": _object(
            {
                "members": {
                    "type": "array",
                    "items": _object({"agent": _TEXT, "since_ms": _COUNT}, "agent", "since_ms"),
                }
            },
            "members",
        ),
        "annotations": _hints(reads=True, repeatable=True),
    },
    "mesh_open_room": {
        "title": "Open a room",
        "description": "Makes a fresh private channel of which you are the owner. Only those invited may take part.",
        "inputSchema": _object(
            {
                "title": {"type": "string", "maxLength": 200},
                "invite": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 1000},
                "lease_s": {**_LEASE, "description": "Seconds until the room closes by itself."},
            }
        ),
        "outputSchema": _object(
            {"channel": _TEXT, "until_ms": {**_COUNT, "description": "When its lease ends."}}, "channel", "until_ms"
        ),
        "annotations": _hints(),
    },
}
