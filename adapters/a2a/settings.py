"""The bounds of the A2A endpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dragoman.adapters.a2a.places import WORD
from dragoman.broker.settings_key import key

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_BASE_URL: Final = re.compile(r"(https?://[^/?#\s]+(/[^?#\s]*[^/?#\s])?)?")
_TAKEN: Final = frozenset(("v1", "healthz", "readyz", "metrics", "openapi.json", "mcp"))


def _path_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if not _PATH.fullmatch(value):
        return f"{value!r} is no path; one is like /a2a, of letters, digits and -._~"
    if value.split("/")[1] in _TAKEN:
        return f"{value!r} is taken by another protocol; choose another, like /a2a"
    return None


def _word_problem(value: object) -> str | None:
    assert isinstance(value, str)
    return None if WORD.fullmatch(value) else f"{value!r} is no word of letters, digits and _.-"


def _base_url_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if not _BASE_URL.fullmatch(value):
        return f"{value!r} is no address; one is like https://mesh.example, without a slash at its end"
    return None


@dataclass(frozen=True, slots=True)
class A2aSettings:
    """What the A2A endpoint allows."""

    path: str = key("/a2a", why="where agents are on the web listener, each one level below", check=_path_problem)
    base_url: str = key(
        "",
        why="what agent cards say our address is, such as https://mesh.example behind a proxy; "
        "empty: what the request calls us",
        check=_base_url_problem,
    )
    mqtt: bool = key(True, why="A2A over MQTT below $a2a/v1/; false: those are channels like others")
    mqtt_org: str = key(
        "mesh",
        why="the organisation in A2A over MQTT of agents whose ids are not org/unit/agent",
        check=_word_problem,
    )
    mqtt_unit: str = key("mesh", why="their unit; client ids that begin with both are not free", check=_word_problem)
    mqtt_url: str = key(
        "",
        why="what agent cards in A2A over MQTT say our address is, such as mqtts://mesh.example:8883; "
        "empty: the address we listen on",
    )
    mqtt_first_reply_s: float = key(
        10.0,
        unit="s",
        low=0,
        why="SendMessage in A2A over MQTT is answered with the task as it is after so long, and again at its end; "
        "requesters take it for unheard after 15",
    )
    card_max_age_s: int = key(60, unit="s", low=0, why="how long a client may keep an agent card without asking again")
    send_wait_max_s: float = key(
        50.0,
        unit="s",
        low=0,
        why="how long SendMessage waits for the end of its task before it answers with the task as it is; "
        "below what proxies allow",
    )
    deadline_ms: int = key(
        86_400_000,
        unit="ms",
        low=1,
        why="for a task that names none: the agent may be asleep over night; cut to agents.call_deadline_max_ms",
    )
    keep_alive_s: float = key(15.0, unit="s", low=1, why="a silent stream says something this often")
    stall_max_s: float = key(30.0, unit="s", low=1, why="a reader that takes nothing for so long is cut off")
    requests_per_principal_max: int = key(256, unit="requests", low=1, why="sends that wait at once, no streams")
    requests_max: int = key(2048, unit="requests", low=1, why="the same, all together")
    streams_per_principal_max: int = key(256, unit="streams", low=1, why="open streams of one principal")
    streams_max: int = key(2048, unit="streams", low=1, why="the same, all together")
    parts_max: int = key(64, unit="parts", low=1, why="parts of one message")
    metadata_bytes_max: int = key(
        16_384, unit="bytes", low=0, why="metadata of one message; more of it is refused, since tasks show it again"
    )
    message_kept_bytes_max: int = key(
        65_536, unit="bytes", low=0, why="a user's message larger than this is not kept in its task's history"
    )
    watches_per_principal_max: int = key(64, unit="watches", low=1, why="tasks of the agent mesh that watch a channel")
    watches_max: int = key(2048, unit="watches", low=1, why="the same, all together")
    watch_messages_max: int = key(256, unit="messages", low=1, why="waiting for one watch; then its place is kept")
    watch_bytes_max: int = key(1 << 20, unit="bytes", low=1024, why="the same in bytes")
    read_bytes_max: int = key(262_144, unit="bytes", low=1024, why="payload one read of a channel returns")
    confirm_max_s: float = key(30.0, unit="s", low=1, why="how long a publish waits for its commit")

    def __post_init__(self) -> None:
        """Relations between limits that would otherwise only show under load."""
        for each, all_ in (
            ("requests_per_principal_max", "requests_max"),
            ("streams_per_principal_max", "streams_max"),
            ("watches_per_principal_max", "watches_max"),
        ):
            if getattr(self, each) > getattr(self, all_):
                raise ValueError(f"{each} is {getattr(self, each)}, more than {all_}, {getattr(self, all_)}")
