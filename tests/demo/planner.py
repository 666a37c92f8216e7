"""A planner with nothing but the official A2A SDK and the mesh's address: it asks the mesh who can, and then them."""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any

from a2a.client import A2ACardResolver, ClientConfig, create_client
from a2a.types import Message, Part, Role, SendMessageRequest
from acting import say
from google.protobuf.json_format import MessageToDict, ParseDict
from httpx import AsyncClient

SKILL = "set_temperature"


async def main(url: str, celsius: float) -> None:
    async with AsyncClient(timeout=30) as web:
        told = await done(web, f"{url}/mesh", {"skill": SKILL, "state": "online"}, skill="find")
        (found,) = told["agents"]
        say("finds", protocol="A2A", channel=found["name"], agent=found["agent"], skills=found["skills"])
        answer = await done(web, f"{url}/{found['agent']}", {"celsius": celsius}, skill=SKILL)
        say("has it done", protocol="A2A", channel=found["name"], answer=answer)


async def done(web: AsyncClient, url: str, data: dict[str, Any], skill: str) -> Any:
    """What an agent answers to one message, which is data for a skill of its card."""
    card = await A2ACardResolver(web, url).get_agent_card()
    assert skill in [offered.id for offered in card.skills]
    client = await create_client(card, ClientConfig(httpx_client=web))
    message = Message(message_id=str(uuid.uuid4()), role=Role.ROLE_USER, parts=[ParseDict({"data": data}, Part())])
    message.metadata.update({"skill": skill})
    say("asks", protocol="A2A", channel=card.name, skill=skill, arguments=data)
    answer: Any = None
    async for item in client.send_message(SendMessageRequest(message=message)):
        said = MessageToDict(item)
        for artifact in [*said.get("task", {}).get("artifacts", ()), said.get("artifactUpdate", {}).get("artifact")]:
            if artifact is not None and artifact.get("parts"):
                answer = artifact["parts"][0].get("data", answer)
    return answer


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
