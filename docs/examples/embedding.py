"""A mesh inside your own program: no listener is needed, and none of this differs from a mesh on the wire.

Run it: python docs/examples/embedding.py
"""

from __future__ import annotations

import asyncio
import json

from dragoman import Mesh
from dragoman.config import Config
from dragoman.routing.cards import Skill
from dragoman.routing.refusals import Reason, Refusal, RefusedError

ADD = Skill(
    "add",
    "Adds two numbers",
    input_schema={
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
)


async def add(arguments: bytes) -> bytes:
    """Serves the skill. Its arguments are the caller's bytes; whoever offers a skill checks what it is given."""
    try:
        numbers = json.loads(arguments)
        return json.dumps({"sum": numbers["a"] + numbers["b"]}).encode()
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, f"add wants two numbers a and b: {error}")) from None


async def main() -> None:
    async with Mesh(Config.embedded()) as mesh:
        # An agent of this program offers a skill. Over MCP it would be a tool, over MQTT mesh/call/adder/add.
        mesh.serve(ADD, add, agent="adder")
        print("the answer:", (await mesh.call("add", b'{"a": 2, "b": 40}')).decode())

        # Channels come into being when first used.
        async with mesh.subscribe("plant/+/temperature") as readings:
            said = await mesh.publish("plant/line1/temperature", b"21.5")
            message = await anext(readings)
            print("read:", message.name, message.payload, "id", message.id)
            assert message.id == said.id

        # A no is an exception with a stable reason.
        try:
            await mesh.call("add", b'{"a": 2}')
        except RefusedError as no:
            print("refused:", no.refusal.reason.value)


if __name__ == "__main__":
    asyncio.run(main())
