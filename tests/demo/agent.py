"""An agent with nothing but the official MCP SDK: it finds the thermostat's skill among its tools and calls it."""

from __future__ import annotations

import asyncio
import json
import sys

from acting import say
from mcp import Client


async def main(url: str, celsius: float) -> None:
    async with Client(url, mode="2026-07-28") as client:
        listed = await client.list_tools()
        names = [tool.name for tool in listed.tools]
        say("lists tools", protocol="MCP", names=names)
        tool = next(tool for tool in listed.tools if tool.name == "set_temperature")
        say("calls", protocol="MCP", channel=tool.name, arguments={"celsius": celsius})
        result = await client.call_tool(tool.name, {"celsius": celsius})
        text = "".join(block.text for block in result.content if block.type == "text")
        say("gets the answer", protocol="MCP", channel=tool.name, answer=json.loads(text), error=bool(result.is_error))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
