"""The bounds of the web application, which HTTP, MCP and A2A share."""

from __future__ import annotations

from dataclasses import dataclass

from dragoman.broker.settings_key import key


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What the web application lets in before any route runs."""

    hosts: tuple[str, ...] = key(
        (),
        why="names, besides localhost and addresses, that browsers (and anyone on a loopback socket) may call us by; "
        "a name we do not know may be an attacker's, rebound to our address",
    )
    origins: tuple[str, ...] = key(
        (),
        why="web origins such as https://app.example whose pages may call across origins; '*' lets every page in",
    )
    body_max_bytes: int = key(
        16 << 20,
        unit="bytes",
        low=1024,
        high=256 << 20,
        why="one request body is held in memory whole; 16 MiB carries a photo",
        peers="MQTT allows 256 MB, nats-server takes 1 MB, MCP's SDK 4 MB",
    )
    login_max_ms: int = key(
        10_000,
        unit="ms",
        low=100,
        why="how long credentials may wait for the hashing thread before the answer is 'busy'",
    )
