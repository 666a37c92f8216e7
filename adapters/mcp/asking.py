"""A tools/call of a skill: from arguments to the one final answer. Owns the call for as long as it runs."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mcp.contents import answer_result, refused_result
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal
from dragoman.routing.words import text_of

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


@final
class SkillCalls:
    """Calls skills for tools/call."""

    __slots__ = ("_broker", "_catalog", "_timeout_ms")

    def __init__(self, broker: Broker, catalog: Catalog, timeout_s: float) -> None:
        self._broker = broker
        self._catalog = catalog
        self._timeout_ms = int(timeout_s * 1000)

    async def ask(self, session: McpSession, tool: SkillTool, request: Request, arguments: JsonObject) -> JsonObject:
        """The tool's result. If this is cancelled, so is the call."""
        agent = None
        if tool.agent_argument is not None:
            agent = arguments.pop(tool.agent_argument, None)
            if agent is not None and not isinstance(agent, str):
                return _invalid([f"{tool.agent_argument} must be an agent's id"])
        checks = self._catalog.checks(tool)
        faults = checks.input.faults(arguments) if checks.input is not None else []
        if faults:
            return _invalid(faults)
        asking = Asking(session)
        call = self._start(asking, tool, agent, arguments)
        if isinstance(call, Refusal):
            return refused_result(call)
        try:
            outcome = await _followed(asking, request)
        finally:
            if asking.outcome is None:
                self._broker.calls.cancel(session, call.id)
        if outcome.refusal is not None:
            return refused_result(outcome.refusal)
        result = answer_result(outcome.payload, outcome.content_type, f"call:///{call.id}")
        faults = checks.output.faults(result.get("structuredContent")) if checks.output is not None else []
        if faults:
            detail = f"the answer does not fit the skill's own schema: {'; '.join(faults)}; it was {_glimpse(outcome)}"
            return refused_result(Refusal(Reason.FAILED, detail))
        return result

    def _start(self, asking: Asking, tool: SkillTool, agent: str | None, arguments: JsonObject) -> Call | Refusal:
        return self._broker.calls.start(
            asking,
            agent=agent,
            skill=tool.skill.name,
            key=tool.key,
            arguments=json.dumps(arguments, ensure_ascii=False, separators=(",", ":")).encode(),
            content_type=JSON_TYPE,
            deadline_ms=self._timeout_ms,
        )


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


def _invalid(faults: list[str]) -> JsonObject:
    return refused_result(Refusal(Reason.ARGUMENTS_INVALID, "; ".join(faults)))


def _glimpse(outcome: Outcome) -> str:
    return shown((outcome.payload or b"").decode(errors="replace"))
