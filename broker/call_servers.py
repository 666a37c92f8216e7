"""Who could answer a call: who serves it now, and whether anybody ever will. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, final

from dragoman.broker.gate import Action
from dragoman.broker.presence import Agent, State
from dragoman.routing.names import shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.call import Call
    from dragoman.broker.directory import Directory, Judge
    from dragoman.broker.offers import Offer


@final
class Servers:
    """The directory and the gate, seen from a call."""

    def __init__(self, directory: Directory, gate: Judge) -> None:
        self._directory = directory
        self._gate = gate
        self._own: dict[str, list[Offer]] = {}

    def serve_within(self, offers: list[Offer]) -> None:
        """What the mesh itself serves, as an agent that is in no directory. Each act judges its caller itself."""
        for offer in offers:
            self._own.setdefault(offer.agent.id, []).append(offer)

    def candidates(self, call: Call) -> list[Offer]:
        """Who serves what the call asks for and may be asked by its caller, busy or not."""
        if call.wanted in self._own:
            return [offer for offer in self._own[call.wanted] if offer.skill.name == call.skill]
        if call.wanted is not None:
            agent = self._directory.get(call.wanted)
            offers = self._directory.offers(call.skill, agent) if agent is not None else []
        else:
            skill = _level(call.skill)
            offers = [
                offer
                for offer in self._directory.offers(call.skill)
                if self._refused(call, offer.agent.level, skill) is None
            ]
        return offers if call.key is None else [offer for offer in offers if call.key in offer.agent.keys]

    def refusal(self, call: Call) -> Refusal | None:
        """Why the call cannot be taken: not allowed, nobody has the skill, nobody can be reached; None if it can."""
        if call.wanted in self._own:
            known = bool(self.candidates(call))
            detail = f"agent {shown(call.wanted)} has no skill {shown(call.skill)}"
            return None if known else Refusal(Reason.UNKNOWN_SKILL, detail)
        refusal = self._refused(call, _level(call.wanted or ""), _level(call.skill))
        if refusal is not None:
            return refusal
        if call.wanted is None:
            return self._any(call)
        holders = self._named(call, call.wanted)
        return holders if isinstance(holders, Refusal) else self._unreachable(call, holders)

    def _named(self, call: Call, wanted: str) -> list[Agent] | Refusal:
        agent = self._directory.get(wanted)
        if agent is None or not self._directory.sees(call.principal, wanted):
            return Refusal(Reason.UNKNOWN_AGENT, f"no agent {shown(wanted)} is here")
        skilled = agent.card is not None and agent.card.skill(call.skill) is not None
        if not skilled or (call.key is not None and call.key not in agent.keys):
            return Refusal(Reason.UNKNOWN_SKILL, f"agent {shown(wanted)} has no skill {shown(call.skill)}")
        return [agent]

    def _any(self, call: Call) -> Refusal | None:
        holders = self._directory.holders(call.skill, call.key)
        if not holders:
            return Refusal(Reason.UNKNOWN_SKILL, f"no agent here has the skill {shown(call.skill)}")
        skill = _level(call.skill)
        judged: list[Agent] = []

        def allowed() -> Iterator[Agent]:
            # One at a time: the first that can be reached settles it, and there may be thousands.
            for agent in holders:
                if self._refused(call, agent.level, skill) is None:
                    judged.append(agent)
                    yield agent

        unreachable = self._unreachable(call, allowed())
        if unreachable is not None and not judged:
            detail = f"{call.principal.name} may ask none of those who have the skill {shown(call.skill)}"
            return Refusal(Reason.NOT_AUTHORIZED, detail)
        return unreachable

    def _unreachable(self, call: Call, holders: Iterable[Agent]) -> Refusal | None:
        """Sleepers are waited for. One that is lost may return too, but only a durable call waits for that."""
        declared_busy = False
        for agent in holders:
            if agent.state is State.ASLEEP or (agent.state is State.LOST and agent.kept and call.durable):
                return None
            if agent.connected and self._directory.offers(call.skill, agent):
                if agent.limit != 0:
                    return None
                declared_busy = True
        if declared_busy:
            return Refusal(Reason.BUSY, f"whoever has the skill {shown(call.skill)} takes no calls now", 1_000)
        return Refusal(Reason.AGENT_UNREACHABLE, f"nobody who has the skill {shown(call.skill)} can be reached now")

    def _refused(self, call: Call, agent: str, skill: str) -> Refusal | None:
        """Agent and skill are levels."""
        verdict = self._gate.check(call.principal, Action.CALL, f"{agent}/{skill}", call.caller_agent)
        return verdict if isinstance(verdict, Refusal) else None


def _level(text: str) -> str:
    return to_level(text) if text else ""
