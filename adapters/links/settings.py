"""What can be configured about links: ``[[links]]``, one table a connection that the mesh itself opens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from dragoman.adapters.links.naming import Naming, RuleError
from dragoman.broker.settings_key import key, required

KINDS: Final = ("a2a", "kafka", "mcp", "mqtt", "nats")
AGENTS: Final = ("a2a", "mcp")
"""Kinds that are agents of the mesh, and carry calls instead of messages."""
SCHEMES: Final = {
    "mqtt": ("mqtt", "mqtts"),
    "kafka": ("kafka", "kafkas"),
    "nats": ("nats", "tls"),
    "a2a": ("http", "https"),
    "mcp": ("http", "https"),
}
PORTS: Final = {
    "mqtt": 1883,
    "mqtts": 8883,
    "kafka": 9092,
    "kafkas": 9093,
    "nats": 4222,
    "tls": 4222,
    "http": 80,
    "https": 443,
}

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _name_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if _NAME.fullmatch(value):
        return None
    return f"{value!r} cannot be a link's name: 1 to 64 letters, digits, - and _"


def links_problem(value: object) -> str | None:
    """Why these links cannot be together; None if they can."""
    assert isinstance(value, tuple)
    said: list[str] = []
    names: set[str] = set()
    for link in value:
        assert isinstance(link, LinkSettings)
        if link.name in names:
            said.append(f"two links are called {link.name!r}; each keeps its place under its name")
        names.add(link.name)
    return "; ".join(said) or None


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """What goes over a link, and what it is called where it arrives."""

    filter: str = required(
        example="factory/#",
        why="what to take: an MQTT filter; from NATS a subject, from Kafka a topic or ^regex",
    )
    to: str = key(
        "{name}",
        why="its name over there; {name} = as it was, in that side's spelling, {1} = what a wildcard stood for",
    )


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """A connection the mesh opens to an outside broker, and what goes over it each way; or to an agent."""

    name: str = required(example="plant", why="unique; the link keeps its place under it", check=_name_problem)
    kind: str = required(example="mqtt", why="what the outside speaks", choices=KINDS)
    address: str = required(
        example="mqtt://broker.example:1883",
        why="as scheme://host:port, several hosts with commas (Kafka, NATS); mqtts, kafkas and tls are over TLS; "
        "an agent's (MCP, A2A) is its URL",
    )
    username: str = key("", why="empty = no credentials")
    password: str = key("", why="for the user name; NATS, MCP, A2A: alone it is a token", secret=True)
    ca: str = key("", unit="path", why="PEM file of whom to trust over TLS; empty = whom the system trusts")
    agent: str = key("", why="MCP, A2A only: who it is in the mesh, with its tools or skills; empty = the link's name")
    client_id: str = key("", why="what the outside knows us by, Kafka's consumer group too; empty = dragoman-{name}")
    qos: int = key(
        1, unit="QoS", low=0, high=1, why="1 = at least once wherever the outside can acknowledge; 0 = at most once"
    )
    stream: str = key("", why="NATS only: pull from this JetStream stream, acknowledged; empty = live subjects")
    window: int = key(
        256, unit="messages", low=1, high=65_535, why="each way on their way and not acknowledged; then it waits"
    )
    hops_max: int = key(16, unit="hops", low=1, high=250, why="what came over more links goes no further: a loop")
    retry_s_max: float = key(30.0, unit="s", low=0, why="longest pause between attempts; the first is 0.2 s")
    pull: tuple[RouteSettings, ...] = key(
        (), why="from outside to channels here, {filter, to} each; the first that matches decides"
    )
    push: tuple[RouteSettings, ...] = key(
        (), why="from channels here to outside, {filter, to} each; the first that matches decides"
    )

    def __post_init__(self) -> None:
        """A link that could never work is found here."""
        problem = _address_problem(self.kind, self.address)
        if problem is not None:
            raise ValueError(problem)
        if self.kind in AGENTS:
            if self.pull or self.push:
                raise ValueError(f"the link {self.name!r} is to an agent: it has no pull or push, but skills")
            return
        if not self.pull and not self.push:
            raise ValueError(f"the link {self.name!r} has neither pull nor push, so nothing would go over it")
        if self.stream and self.kind != "nats":
            raise ValueError(f"stream is for links of kind nats, and {self.name!r} is of kind {self.kind}")
        for way, routes, kind in (("pull", self.pull, self.kind), ("push", self.push, "mesh")):
            for route in routes:
                try:
                    Naming(kind, route.filter, route.to, "mesh" if way == "pull" else self.kind)
                except RuleError as error:
                    raise ValueError(f"{way} of the link {self.name!r}: {error}") from None

    @property
    def known_as(self) -> str:
        """The client id, or group, the outside sees."""
        return self.client_id or f"dragoman-{self.name}"

    @property
    def scheme(self) -> str:
        """The scheme of the address."""
        return self.address.partition("://")[0]

    @property
    def tls(self) -> bool:
        """Whether the connection is over TLS."""
        return self.scheme in ("mqtts", "kafkas", "tls", "https")

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """Where to connect to."""
        scheme, _, rest = self.address.partition("://")
        found: list[tuple[str, int]] = []
        for part in rest.split(","):
            url = urlsplit(f"//{part}")
            found.append((url.hostname or "", url.port or PORTS[scheme]))
        return tuple(found)


def _address_problem(kind: str, address: str) -> str | None:
    scheme, separator, rest = address.partition("://")
    schemes = SCHEMES[kind]
    if not separator or scheme not in schemes:
        return f"the address of a link of kind {kind} begins with {' or '.join(f'{s}://' for s in schemes)}"
    if kind in AGENTS:
        return _url_problem(address)
    parts = rest.split(",")
    if kind == "mqtt" and len(parts) > 1:
        return "a link of kind mqtt has one address"
    for part in parts:
        try:
            url = urlsplit(f"//{part}")
            sound = bool(url.hostname) and url.port != 0 and not url.path and not url.query and "@" not in part
        except ValueError:
            sound = False
        if not sound:
            return f"{part!r} in the address is not HOST:PORT; credentials go into username and password"
    return None


def _url_problem(address: str) -> str | None:
    try:
        url = urlsplit(address)
        sound = bool(url.hostname) and url.port != 0 and "@" not in url.netloc and not url.fragment
    except ValueError:
        sound = False
    if sound and address.isascii() and address.isprintable() and " " not in address:
        return None
    return f"{address!r} is no URL of a server, like https://host/mcp; a token goes into password"
