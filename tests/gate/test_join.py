"""A rule about joining: whoever may read but not join reads unseen."""

from __future__ import annotations

import asyncio

from dragoman import Mesh
from dragoman.broker.gate_settings import GateSettings, RuleSettings
from dragoman.broker.principal import Principal
from dragoman.config import Config
from dragoman.embedded import EmbeddedSession
from dragoman.routing.refusals import Refusal


def test_a_denied_join_reads_without_being_a_member() -> None:
    async def main() -> list[str]:
        config = Config.embedded()
        rules = (RuleSettings(effect="deny", who=("shy",), actions=("join",)),)
        object.__setattr__(config, "gate", GateSettings(rules=rules))
        async with Mesh(config) as mesh:
            for name in ("shy", "open"):
                session = EmbeddedSession(mesh.broker, name)
                session.principal = Principal(name)
                assert not isinstance(mesh.broker.subscribe(session, "meeting"), Refusal)
            return [agent for agent, _ in mesh.broker.directory.members("meeting")]

    assert asyncio.run(main()) == ["open"]
