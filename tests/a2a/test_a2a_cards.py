"""Agent cards: any agent's, with our interfaces, and only when they have changed."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import httpx
from a2a.client import A2ACardResolver
from a2a_mesh import A2aMesh, run

from dragoman.adapters.a2a.cards import AGES_MAX, SCHEMAS, Ages
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
        assert [list(requirement.schemes) for requirement in card.security_requirements] == [["bearer"], ["basic"], []]
        good = {"Authorization": "Bearer good"}
        _, _, known = await mesh.post("/plant%2Ft%201/.well-known/agent-card.json", None, method="GET", headers=good)
        assert len(known["securityRequirements"]) == 2, "who has credentials is not told to come without"
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
        assert headers["Vary"] == "Authorization"
        modified = parsedate_to_datetime(headers["Last-Modified"]).timestamp()
        assert abs(modified - mesh.broker.clock.now_ms() / 1000) < 5
        status, head, nothing = await mesh.post(path, None, method="HEAD")
        assert (status, head["ETag"], nothing) == (200, headers["ETag"], None)
        known = {"If-None-Match": f'"other", W/{headers["ETag"]}'}
        status, headers, nothing = await mesh.post(path, None, method="GET", headers=known)
        assert (status, nothing) == (304, None)
        server.leave()
        server.arrive(Skill("echo"), Skill("more"))
        status, _, second = await mesh.post(path, None, method="GET", headers=known)
        assert (status, first["version"] == second["version"]) == (200, False)

    run(body, card_max_age_s=5)


def test_a_card_is_as_old_as_its_content() -> None:
    ages = Ages()
    assert ages.since("u", "one", 1_000) == 1_000
    assert ages.since("u", "one", 2_000) == 1_000
    assert ages.since("u", "two", 3_000) == 3_000
    for number in range(AGES_MAX - 1):
        ages.since(f"v{number}", "one", 4_000)
    assert ages.since("u", "two", 5_000) == 3_000
    # That look made it the youngest; the next newcomers push the others out first.
    ages.since("w", "one", 6_000)
    assert ages.since("v0", "one", 7_000) == 7_000
