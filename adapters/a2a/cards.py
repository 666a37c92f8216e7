"""Agent cards: any agent of the directory as A2A shows it. Pure: a card of ours in, JSON out.

The interfaces are always ours, whatever an agent's own card says: it is reached through the mesh.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple, final

import msgspec

from dragoman.adapters.a2a.wire import VERSION, JsonObject
from dragoman.routing.cards import Card, Skill

SCHEMAS: Final = "urn:dragoman:a2a:skill-schemas:1"
"""The extension under which a card tells the JSON schemas of its skills; A2A itself has no place for them."""

WEB: Final = ("JSONRPC", "HTTP+JSON")
MQTT: Final = "MQTTv5+JSONRPCv2"
"""What A2A over MQTT calls itself in a card."""

INPUT_MODES: Final = ("application/json", "text/plain", "application/octet-stream")
OUTPUT_MODES: Final = INPUT_MODES

AGES_MAX: Final = 4096
"""Cards whose age is remembered; one takes about 300 bytes."""


class Shown(NamedTuple):
    """A card on the wire."""

    body: bytes
    etag: str


def show(agent: str, card: Card | None, interfaces: list[JsonObject], *, anonymous: bool) -> Shown:
    """The card of an agent that is reached by ``interfaces``. ``anonymous``: its reader gave no credentials."""
    skills = card.skills if card is not None else ()
    shown: JsonObject = {
        "name": card.name if card is not None else agent,
        "description": (card.description if card is not None else "") or f"The agent {agent} of this mesh.",
        "supportedInterfaces": interfaces,
        "capabilities": {
            "streaming": True,
            "pushNotifications": False,
            "extendedAgentCard": False,
            "extensions": _schemas(skills),
        },
        "securitySchemes": {
            "bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer"}},
            "basic": {"httpAuthSecurityScheme": {"scheme": "Basic"}},
        },
        # Official clients log in by these alone. Any one of them will do.
        "securityRequirements": [
            *({"schemes": {name: {}}} for name in ("bearer", "basic")),
            *([{}] if anonymous else []),
        ],
        "defaultInputModes": list(INPUT_MODES),
        "defaultOutputModes": list(OUTPUT_MODES),
        "skills": [_skill(skill) for skill in skills],
    }
    digest = sha256(msgspec.json.encode(shown, order="sorted")).hexdigest()
    # A card without a version has that of its content: clients compare it to know whether to look again.
    shown["version"] = (card.version if card is not None else "") or digest[:12]
    body = msgspec.json.encode(shown)
    return Shown(body, f'"{sha256(body).hexdigest()[:32]}"')


def interfaces(url: str, *bindings: str) -> list[JsonObject]:
    """What a card says of where an agent is reached, by each of these bindings."""
    return [{"url": url, "protocolBinding": binding, "protocolVersion": VERSION} for binding in bindings]


@final
class Ages:
    """Since when each card is as it is, as far as anybody has looked. The longest unread are forgotten."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, int]] = {}

    def since(self, url: str, etag: str, now_ms: int) -> int:
        """When the card at this address was first seen like this: now, if it was not."""
        known = self._known.pop(url, None)
        if known is None or known[0] != etag:
            known = (etag, now_ms)
        self._known[url] = known
        if len(self._known) > AGES_MAX:
            del self._known[next(iter(self._known))]
        return known[1]


def matches(if_none_match: str, etag: str) -> bool:
    """Whether the client has this very card already."""
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in known or "*" in known


def _skill(skill: Skill) -> JsonObject:
    return {
        "id": skill.name,
        "name": skill.title or skill.name,
        "description": skill.description or skill.title or skill.name,
        "tags": list(skill.tags) or [skill.name],
    }


def _schemas(skills: tuple[Skill, ...]) -> list[JsonObject]:
    schemas: JsonObject = {}
    for skill in skills:
        found = {"inputSchema": skill.input_schema, "outputSchema": skill.output_schema}
        told = {name: schema for name, schema in found.items() if schema is not None}
        if told:
            schemas[skill.name] = told
    if not schemas:
        return []
    return [{"uri": SCHEMAS, "description": "JSON schemas of skills, by their ids.", "params": schemas}]
