"""The bounds of the MCP endpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dragoman.broker.settings_key import key

MIB = 1 << 20

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_SERVER_NAME: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_TAKEN: Final = frozenset(("v1", "healthz", "readyz", "metrics", "openapi.json"))


def _path_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if not _PATH.fullmatch(value):
        return f"{value!r} is no path; one is like /mcp, of letters, digits and -._~"
    if value.split("/")[1] in _TAKEN:
        return f"{value!r} is taken by HTTP; choose another, like /mcp"
    return None


def _server_name_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if value and not _SERVER_NAME.fullmatch(value):
        return f"{value!r} is no name; one is like plant/mesh, of letters, digits and -._"
    return None


@dataclass(frozen=True, slots=True)
class McpSettings:
    """What the MCP endpoint allows."""

    path: str = key(
        "/mcp", why="where MCP is served on the web listener; what clients are usually told", check=_path_problem
    )
    body_bytes_max: int = key(4 * MIB, unit="bytes", low=1024, why="one request", peers="the official SDK: 4 MiB")
    call_timeout_s: float = key(
        60.0, unit="s", low=1, why="how long a skill may take; clients give up after 60 s or so"
    )
    wait_timeout_max_s: float = key(
        240.0, unit="s", low=1, why="the longest mesh_wait; below what proxies and clients allow"
    )
    write_timeout_s: float = key(30.0, unit="s", low=1, why="a client that reads nothing for so long is cut off")
    silence_s: float = key(
        15.0,
        unit="s",
        why="after it an answer becomes an event stream, and between its keep-alives",
        peers="the SDK: 15 s",
    )
    requests_per_principal_max: int = key(256, unit="requests", low=1, why="in flight at once, streams not counted")
    requests_max: int = key(2048, unit="requests", low=1, why="in flight at once, all together")
    listens_per_principal_max: int = key(64, unit="streams", low=1, why="open subscriptions/listen and GET streams")
    listens_max: int = key(1024, unit="streams", low=1, why="the same, all together", peers="the SDK: 1024")
    listen_uris_max: int = key(256, unit="resources", low=1, why="one listen stream or session may follow")
    notices_gap_s: float = key(
        0.05, unit="s", low=0, why="a stream that told of changes pauses so long; what changes meanwhile becomes one"
    )
    sessions_per_principal_max: int = key(256, unit="sessions", low=1, why="of clients of 2025-11-25 and older")
    sessions_max: int = key(1000, unit="sessions", low=1, why="the same, all together", peers="the SDK: 10,000")
    session_idle_s: float = key(1800.0, unit="s", low=1, why="such a session ends unused", peers="the SDK: 30 min")
    session_replay_bytes_max: int = key(
        MIB, unit="bytes", low=1024, why="answers such a session can still ask for after its connection broke"
    )
    session_requests_max: int = key(32, unit="requests", low=1, why="in flight at once in one such session")
    page_size: int = key(200, unit="entries", low=1, high=10_000, why="tools or resources in one page of a list")
    agent_enum_max: int = key(20, unit="agents", low=0, why="with so few servers a tool's argument 'agent' lists them")
    schema_bytes_max: int = key(64 * 1024, unit="bytes", low=1024, why="a skill's schema; a larger one makes no tool")
    cursor_lease_s: float = key(
        300.0, unit="s", low=1, why="an unused cursor lives so long unless its owner says otherwise"
    )
    cursor_lease_max_s: float = key(3600.0, unit="s", low=1, why="the longest lease an owner may ask for")
    cursors_per_principal_max: int = key(256, unit="cursors", low=1, why="each holds a bounded buffer")
    cursors_max: int = key(4096, unit="cursors", low=1, why="the same, all together")
    cursor_messages_max: int = key(256, unit="messages", low=1, why="held ready for one cursor; then its place is kept")
    cursor_bytes_max: int = key(MIB, unit="bytes", low=1024, why="the same in bytes")
    read_bytes_max: int = key(256 * 1024, unit="bytes", low=1024, why="payload one mesh_read or mesh_wait returns")
    tools_changed_debounce_s: float = key(0.2, unit="s", why="changes of the directory are gathered so long")
    channels_look_ms: int = key(1000, unit="ms", low=1, why="how often is looked whether there are other channels")
    list_ttl_ms: int = key(
        0, unit="ms", low=0, why="how long a client may keep a list; it depends on who asks and when"
    )

    mqtt_servers_max: int = key(
        1000,
        unit="servers",
        low=0,
        why="MCP servers over MQTT whose tools are skills here; 0: their topics are channels and nothing more",
    )
    mqtt_name: str = key(
        "dragoman/mesh",
        why="the name of the MCP server over MQTT that the mesh is to MQTT clients; empty: it is none",
        check=_server_name_problem,
    )

    def __post_init__(self) -> None:
        """Relations between limits that would otherwise only show under load."""
        for each, all_ in (
            ("cursor_lease_s", "cursor_lease_max_s"),
            ("requests_per_principal_max", "requests_max"),
            ("listens_per_principal_max", "listens_max"),
            ("sessions_per_principal_max", "sessions_max"),
            ("cursors_per_principal_max", "cursors_max"),
        ):
            if getattr(self, each) > getattr(self, all_):
                raise ValueError(f"{each} is {getattr(self, each)}, more than {all_}, {getattr(self, all_)}")
