"""A tools/call of a skill: from arguments to the one final answer. Owns the call for as long as it runs."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mcp.contents import answer_result, refused_result, text_of
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mcp.catalog import Catalog, SkillTool
    from dragoman.adapters.mcp.kernel import JsonObject, Request
    from dragoman.adapters.mcp.session import McpSession
    from dragoman.broker.broker import Broker
    from dragoman.broker.call import Call, Outcome

PARTS_MAX: Final = 64
"""Partial answers held for a slow reader; the oldest go first."""

PROGRESS_CHARS_MAX: Final = 2_048
"""Of a partial answer in a progress message, which is for people to glance at."""

JSON_TYPE: Final = "application/json"


@final
class Asking:
    """Who waits for a call: the broker's Caller."""

    __slots__ = ("_news", "outcome", "parts", "session")

    def __init__(self, session: McpSession) -> None:
        self.session = session
        self.parts: deque[bytes] = deque(maxlen=PARTS_MAX)
        self.outcome: Outcome | None = None
        self._news = asyncio.Event()

    def part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        """A partial answer."""
        self.parts.append(payload)
        self._news.set()

    def final(self, call: Call, outcome: Outcome) -> None:
        """The one final answer."""
        self.outcome = outcome
        self._news.set()

    async def news(self) -> None:
        """Returns when there is a part or the end."""
        await self._news.wait()
        self._news.clear()


async def ask_skill(
    broker: Broker,
    session: McpSession,
    catalog: Catalog,
    tool: SkillTool,
    request: Request,
    arguments: JsonObject,
    timeout_s: float,
) -> JsonObject:
    """Calls a skill and returns the tool's result. If this is cancelled, so is the call."""
    agent = None
    if tool.agent_argument is not None:
        agent = arguments.pop(tool.agent_argument, None)
        if agent is not None and not isinstance(agent, str):
            return refused_result(Refusal(Reason.ARGUMENTS_INVALID, f"{tool.agent_argument} must be an agent's id"))
    checks = catalog.checks(tool)
    faults = checks.input.faults(arguments) if checks.input is not None else []
    if faults:
        return refused_result(Refusal(Reason.ARGUMENTS_INVALID, "; ".join(faults)))
    asking = Asking(session)
    call = broker.calls.start(
        asking,
        agent=agent,
        skill=tool.skill.name,
        key=tool.key,
        arguments=json.dumps(arguments, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"),
        content_type=JSON_TYPE,
        deadline_ms=int(timeout_s * 1000),
    )
    if isinstance(call, Refusal):
        return refused_result(call)
    try:
        outcome = await _followed(asking, request)
    finally:
        if asking.outcome is None:
            broker.calls.cancel(session, call.id)
    if outcome.refusal is not None:
        return refused_result(outcome.refusal)
    result = answer_result(outcome.payload, outcome.content_type, f"call:///{call.id}")
    if checks.output is not None:
        faults = checks.output.faults(result.get("structuredContent"))
        if faults:
            detail = f"the answer does not fit the skill's own schema: {'; '.join(faults)}; it was {_glimpse(outcome)}"
            return refused_result(Refusal(Reason.FAILED, detail))
    return result


async def _followed(asking: Asking, request: Request) -> Outcome:
    told = 0
    while True:
        while asking.parts:
            told += 1
            text = text_of(asking.parts.popleft())
            await request.progress(told, None if text is None else text[:PROGRESS_CHARS_MAX])
        if asking.outcome is not None:
            return asking.outcome
        await asking.news()


def _glimpse(outcome: Outcome) -> str:
    return shown((outcome.payload or b"").decode(errors="replace"))
