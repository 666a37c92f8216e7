"""A planner with nothing but the official A2A SDK: it reads the thermostat's card, and asks it."""

from __future__ import annotations

import asyncio
import sys
import uuid

from a2a.client import A2ACardResolver, ClientConfig, create_client
from a2a.types import Message, Part, Role, SendMessageRequest
from acting import say
from google.protobuf.json_format import MessageToDict, ParseDict
from httpx import AsyncClient


async def main(url: str, celsius: float) -> None:
    async with AsyncClient(timeout=30) as web:
        card = await A2ACardResolver(web, url).get_agent_card()
        say("reads a card", protocol="A2A", channel=url, skills=[skill.id for skill in card.skills])
        client = await create_client(card, ClientConfig(httpx_client=web))
        part = ParseDict({"data": {"celsius": celsius}}, Part())
        message = Message(message_id=str(uuid.uuid4()), role=Role.ROLE_USER, parts=[part])
        say("asks", protocol="A2A", channel=card.name, arguments={"celsius": celsius})
        states: list[str] = []
        answer: object = None
        async for item in client.send_message(SendMessageRequest(message=message)):
            said = MessageToDict(item)
            for update in (said.get("task"), said.get("statusUpdate")):
                if update is not None:
                    states.append(update["status"]["state"])
            for artifact in [
                *said.get("task", {}).get("artifacts", ()),
                said.get("artifactUpdate", {}).get("artifact"),
            ]:
                if artifact is not None and artifact.get("parts"):
                    answer = artifact["parts"][0].get("data", answer)
        say("has it done", protocol="A2A", channel=card.name, answer=answer, states=states)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
