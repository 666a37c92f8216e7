"""Where A2A's requests are dealt with, whichever way they came: the tasks, and the mesh's own agent that some ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.adapters.a2a.mesh_agent import MeshAgent
from dragoman.adapters.a2a.mesh_skills import OWN, card_of
from dragoman.adapters.a2a.notes import Notes
from dragoman.adapters.a2a.tasks import Party, Tasks
from dragoman.adapters.a2a.views import OWN_AGENT
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.principal import Principal
    from dragoman.routing.cards import Card


@final
class Desk:
    """One a mesh. Starts before the carriers do and stops before them, so that whoever waits is answered."""

    def __init__(self, broker: Broker, settings: A2aSettings, *, version: str) -> None:
        self.own_card = card_of(version)
        self.notes = Notes(broker)
        self.tasks = Tasks(broker, settings, self.notes)
        self.agent = MeshAgent(broker, settings)
        self._directory = broker.directory

    async def start(self) -> None:
        """Takes up the tasks there are, and serves those of the mesh's own agent."""
        self.notes.start()
        self.agent.start()

    def stop_accepting(self) -> None:
        """Its carriers do."""

    async def stop(self, deadline_s: float) -> None:
        """Answers whoever waits. Tasks go on when the mesh is back."""
        self.tasks.stop()
        await self.agent.stop()

    def card(self, principal: Principal, agent: str) -> Card | None:
        """The card of an agent the principal may know of, if it has one. Raises RefusedError."""
        if agent == OWN:
            return self.own_card
        entry = self._directory.get(agent)
        if entry is None or not self._directory.sees(principal, agent):
            raise RefusedError(Refusal(Reason.UNKNOWN_AGENT, f"no agent {shown(agent)} is here"))
        return entry.card

    def party(self, principal: Principal, speaks_as: str, agent: str, trace: dict[str, str]) -> Party:
        """Who asks whom. Raises RefusedError."""
        card = self.card(principal, agent)
        wanted = OWN_AGENT if agent == OWN else agent
        return Party(principal, speaks_as, agent, wanted, card.skills if card is not None else (), trace)
