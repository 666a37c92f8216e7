"""The bounds of the HTTP listener and its routes. Every number has a unit in its name, a default and a reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from dragoman.adapters.serving.web_settings import WebSettings
from dragoman.broker.settings_key import key


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What the HTTP listener and its routes allow."""

    web: WebSettings = field(default_factory=WebSettings)
    page_max_bytes: int = key(
        1 << 20,
        unit="bytes",
        low=1024,
        why="payload bytes in one page of messages; a reader asks again, so a page need not be large",
    )
    page_max_messages: int = key(1_000, unit="messages", low=1, high=100_000, why="messages in one page")
    wait_max_ms: int = key(
        300_000,
        unit="ms",
        low=0,
        why="the longest a request is held open for news; proxies give up after 60 to 300 s",
    )
    confirm_max_ms: int = key(
        30_000,
        unit="ms",
        low=100,
        why="how long a publisher is kept waiting for the commit before the answer is 'not confirmed'",
    )
    stream_max_messages: int = key(
        1_000,
        unit="messages",
        low=1,
        why="messages waiting for one slow SSE or WebSocket reader; beyond that the broker keeps its place",
    )
    stream_max_bytes: int = key(1 << 20, unit="bytes", low=1024, why="payload bytes waiting for one slow reader")
    streams_max: int = key(10_000, unit="streams", low=1, why="SSE and WebSocket streams open at once; each is a task")
    streams_per_principal_max: int = key(
        1_000, unit="streams", low=1, why="so that one principal cannot hold every stream there is"
    )
    stream_filters_max: int = key(100, unit="filters", low=1, why="filters or channels of one stream")
    keep_alive_ms: int = key(
        15_000, unit="ms", low=100, why="a silent stream says something this often, since proxies cut idle ones at 30 s"
    )
    stall_max_ms: int = key(
        60_000,
        unit="ms",
        low=100,
        why="a reader that takes nothing for so long is cut off; it may come back and resume",
    )
    call_wait_ms: int = key(
        5_000, unit="ms", low=0, why="how long a call is answered in place if the caller does not say: Prefer: wait=n"
    )
    ready_max_ms: int = key(2_000, unit="ms", low=100, why="the deadline of the readiness probe's message and commit")
