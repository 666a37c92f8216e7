"""Agent cards: any agent's, with our interfaces, and only when they have changed."""

from __future__ import annotations

import httpx
from a2a.client import A2ACardResolver
from a2a_mesh import A2aMesh, run

from dragoman.adapters.a2a.cards import SCHEMAS
from dragoman.broker.principal import Principal
from dragoman.routing.cards import Card, Skill


def test_a_card_of_any_agent() -> None:
    async def body(mesh: A2aMesh) -> None:
        schema = {"type": "object", "properties": {"celsius": {"type": "number"}}}
        mesh.add("plant/t 1", Skill("set", "Sets it.", schema, title="Set", tags=("heat",)), Skill("bare"))
        async with httpx.AsyncClient() as http:
            card = await A2ACardResolver(http, f"{mesh.base}/plant%2Ft%201").get_agent_card()
        assert card.name == "plant/t 1"
        assert [(i.url, i.protocol_binding, i.protocol_version) for i in card.supported_interfaces] == [
            (f"{mesh.base}/plant%2Ft%201", binding, "1.0") for binding in ("JSONRPC", "HTTP+JSON")
        ]
        assert card.capabilities.streaming
        assert not card.capabilities.push_notifications
        assert not card.capabilities.extended_agent_card
        assert [(skill.id, skill.name, skill.description, list(skill.tags)) for skill in card.skills] == [
            ("set", "Set", "Sets it.", ["heat"]),
            ("bare", "bare", "bare", ["bare"]),
        ]
        (extension,) = card.capabilities.extensions
        assert extension.uri == SCHEMAS
        assert "celsius" in extension.params["set"]["inputSchema"]["properties"]
        assert card.version
        assert (await mesh.send("plant%2Ft%201", {"data": {"skill": "set", "arguments": {}}}))["status"]

    run(body)


def test_an_agents_own_interfaces_are_not_passed_on() -> None:
    async def body(mesh: A2aMesh) -> None:
        card = Card(agent="far", name="Far", version="7", url="https://far.example/a2a", skills=(Skill("x"),))
        assert isinstance(mesh.broker.directory.register(Principal("p"), "far", card, lease_ms=None, via="http"), int)
        _, _, shown = await mesh.post("/far/.well-known/agent-card.json", None, method="GET")
        assert shown["version"] == "7"
        assert {interface["url"] for interface in shown["supportedInterfaces"]} == {"https://mesh.example/in/a2a/far"}

    run(body, base_url="https://mesh.example/in")


def test_a_card_is_sent_again_only_when_it_has_changed() -> None:
    async def body(mesh: A2aMesh) -> None:
        path = "/t1/.well-known/agent-card.json"
        server = mesh.add("t1")
        status, headers, first = await mesh.post(path, None, method="GET")
        assert (status, headers["Cache-Control"]) == (200, "private, max-age=5")
        known = {"If-None-Match": f'"other", W/{headers["ETag"]}'}
        status, headers, nothing = await mesh.post(path, None, method="GET", headers=known)
        assert (status, nothing) == (304, None)
        server.leave()
        server.arrive(Skill("echo"), Skill("more"))
        status, _, second = await mesh.post(path, None, method="GET", headers=known)
        assert (status, first["version"] == second["version"]) == (200, False)

    run(body, card_max_age_s=5)
