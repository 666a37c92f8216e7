"""What the mesh's own agent can be asked for: the skills of ``/a2a/mesh`` and their arguments, in the mesh's words."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from dragoman.routing.cards import Card, Skill

OWN: Final = "mesh"
"""The mesh's own agent; one of that id in the directory is not reached by A2A."""

PUBLISH: Final = "publish"

Name = Annotated[str, msgspec.Meta(min_length=1, description="A channel: levels separated by slashes.")]
Filter = Annotated[str, msgspec.Meta(min_length=1, description="A channel, or a filter: + one level, # the rest.")]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000, description="How many at most.")]
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Arguments(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a skill takes. An unknown word is a mistake and is said to be one."""


class Header(Arguments, kw_only=True):
    """One header: its value is text, or base64, or neither if it has none."""

    name: str
    value: str | None = None
    value_base64: str | None = None


Headers = Annotated[dict[str, str], msgspec.Meta(max_length=64)] | Annotated[list[Header], msgspec.Meta(max_length=64)]


class Publish(Arguments, kw_only=True):
    """The payload as text, or as base64; or a tombstone."""

    channel: Name
    text: str | None = None
    base64: str | None = None
    tombstone: bool = False
    content_type: str | None = None
    retain: bool = False
    durable: bool = True
    headers: Headers | None = None
    key: str | None = None
    key_base64: str | None = None
    reply_to: str | None = None
    correlation: str | None = None
    correlation_base64: str | None = None
    cause: str | None = None
    expires_s: Annotated[float, msgspec.Meta(gt=0, le=10**9)] | None = None
    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None


class Read(Arguments, kw_only=True):
    """The newest, or from an offset on."""

    channel: Name
    offset: Offset | None = None
    limit: Limit = 20


class Watch(Arguments, kw_only=True):
    """``limit`` messages or ``timeout_s`` seconds end it; without either it goes on until it is cancelled."""

    channel: Filter
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=10**9)] | None = None


class Find(Arguments, kw_only=True):
    """Everything given must hold."""

    agent: str | None = None
    text: str | None = None
    tag: str | None = None
    skill: str | None = None
    state: str | None = None
    limit: Limit = 50


def _schema(kind: type[Arguments]) -> dict[str, object]:
    (found,), inner = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    name = found["$ref"].rpartition("/")[2]
    schema: dict[str, Any] = {**inner.pop(name)}
    return {**schema, "$defs": inner} if inner else schema


_TOLD: Final[tuple[tuple[str, str, type[Arguments]], ...]] = (
    (PUBLISH, "Says something in a channel; completed when the message is safe.", Publish),
    ("read", "Messages a channel still has: the newest, or from an offset on.", Read),
    ("watch", "What is said in a channel from now on: one artifact a message, until it is cancelled.", Watch),
    ("find", "Agents of the mesh, with their state as the mesh verified it.", Find),
)

SKILLS: Final = tuple([Skill(name, text, _schema(kind), tags=("mesh",)) for name, text, kind in _TOLD])


def card_of(version: str) -> Card:
    """The card of the mesh's own agent."""
    said = "The mesh itself: its channels, where agents, tools and devices of any protocol meet, and its directory."
    return Card(agent=OWN, name=OWN, description=said, version=version, skills=SKILLS, tags=("mesh",))
